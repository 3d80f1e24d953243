//! What the old process and the new one say to each other.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::ports::{Inherited, Meant, Role};

/// The new process could serve at once.
pub(super) const READY: &[u8; 6] = b"ready\n";
/// It cannot; a text follows.
pub(super) const REFUSED: &[u8; 6] = b"broken";
/// It is to.
pub(super) const GO: &[u8; 3] = b"go\n";

/// More sockets than there are ports, and than systemd is likely to pass.
const SOCKETS: usize = 16;
/// A line a socket, each far shorter than this.
const TEXT: usize = SOCKETS * 128;

/// Sends listening sockets and what they are for, as one message.
pub(super) fn send(stream: &UnixStream, sockets: &[(BorrowedFd<'_>, Meant)]) -> io::Result<()> {
    let sockets = sockets.get(..SOCKETS).unwrap_or(sockets);
    let text: String = sockets.iter().map(|(_, meant)| line(*meant)).collect();
    let descriptors: Vec<_> = sockets.iter().map(|(descriptor, _)| *descriptor).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    // It is far smaller than any socket's buffer.
    if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives what [`send`] sent.
pub(super) fn receive(stream: &UnixStream) -> io::Result<Vec<Inherited>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; TEXT];
    let received =
        recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut descriptors = Vec::<OwnedFd>::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let text = std::str::from_utf8(&text[..received]).map_err(io::Error::other)?;
    let meant: Option<Vec<_>> = text.lines().map(meant).collect();
    match meant {
        Some(meant) if meant.len() == descriptors.len() => Ok(descriptors
            .into_iter()
            .zip(meant)
            .map(|(descriptor, purpose)| Inherited { listener: TcpListener::from(descriptor), purpose })
            .collect()),
        Some(_) | None => Err(io::Error::other("another version's message")),
    }
}

fn line(meant: Meant) -> String {
    match meant {
        Meant::Port => "port\n".to_owned(),
        Meant::Role(role) => format!("named {role}\n"),
        Meant::Before(role, address) => format!("before {role} {address}\n"),
    }
}

fn meant(line: &str) -> Option<Meant> {
    let words: Vec<_> = line.split(' ').collect();
    match *words {
        ["port"] => Some(Meant::Port),
        ["named", role] => Role::of_name(role).map(Meant::Role),
        ["before", role, address] => Some(Meant::Before(Role::of_name(role)?, address.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn sockets_arrive_with_what_they_are_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let wanted = "[::]:443".parse().unwrap();
        let meant = [Meant::Port, Meant::Role(Role::Redirect), Meant::Before(Role::Main, wanted)];
        let sent: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).zip(meant).collect();
        send(&ours, &sent).unwrap();
        let received = receive(&theirs).unwrap();
        for ((sent, meant), received) in sockets.iter().zip(meant).zip(&received) {
            assert_eq!(received.purpose, meant);
            assert_eq!(received.listener.local_addr().unwrap(), sent.local_addr().unwrap());
        }
        assert_eq!(received.len(), 3);
    }

    #[test]
    fn what_another_version_says_is_refused() {
        use std::io::Write;
        for text in ["before main\n", "after main [::]:443\n", "port\n"] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(text.as_bytes()).unwrap();
            assert!(receive(&theirs).is_err(), "{text}");
        }
    }
}
