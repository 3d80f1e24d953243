//! placeholder until the filter is merged
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FormError {
    File,
}
impl FormError {
    pub(crate) fn is_file(self) -> bool {
        true
    }
}
impl std::fmt::Display for FormError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
impl std::error::Error for FormError {}
