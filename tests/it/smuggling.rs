//! HTTP/1 that two parsers could read in two ways (attacks.md S1 to S14): refused with an answer of ours, or read in
//! one way only, and then the backend sees one canonical request.
//!
//! The classes are those of the published corpora: CL.TE, TE.CL, TE.TE, CL.0, 0.CL, chunk extensions and line ends in
//! them, bodies that spill over, folded lines, bare CR and LF, NUL, blanks where none may be, versions, targets.

mod bodies;
mod framing;
mod lab;
mod lines;
mod pipelines;
mod sizes;
mod targets;
