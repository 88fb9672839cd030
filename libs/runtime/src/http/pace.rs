//! How long the head of a request may take, once it has begun. The time before it is hyper's matter, that of the body up to who
//! reads it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// How long a client may take from the first byte of a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client that has just connected may take to the end of its first head. From then on the connection is worth keeping.
const FIRST_TIMEOUT: Duration = Duration::from_mins(1);

/// Whose turn it is on a connection. Counts up: even while the client is to ask, odd while we are to answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<AtomicU32>);

impl Turn {
    /// A request is there.
    pub(super) fn begin(&self) {
        self.0.fetch_or(1, Ordering::Relaxed);
    }

    /// It has its answer.
    pub(super) fn end(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of the turn while it is the client's.
    fn of_client(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|turn| turn % 2 == 0)
    }
}

/// A connection that ends, as if the client had closed it, when the head of a request takes too long.
pub(super) struct Paced<S = TcpStream> {
    stream: S,
    turn: Turn,
    /// The turn in which a request has begun to arrive. The first begins with the connection.
    begun: Option<u32>,
    /// Runs in that turn. Most heads come at once, and need none.
    timer: Option<(u32, Pin<Box<Sleep>>)>,
}

impl<S> Paced<S> {
    /// Tell the turn of each request's beginning and end.
    pub(super) fn new(stream: S) -> (Self, Turn) {
        let turn = Turn::default();
        (Self { stream, turn: turn.clone(), begun: Some(0), timer: None }, turn)
    }

    /// Whether the client, of whom nothing has come, has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(turn) = self.begun.filter(|begun| self.turn.of_client() == Some(*begun)) else { return Poll::Pending };
        match &mut self.timer {
            Some((of, timer)) if *of == turn => timer.as_mut().poll(cx),
            timer => {
                let timeout = if turn == 0 { FIRST_TIMEOUT } else { HEAD_TIMEOUT };
                timer.insert((turn, Box::pin(sleep(timeout)))).1.as_mut().poll(cx)
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() {
            // Nothing read and no error: the end.
            return self.poll_late(cx).map(Ok);
        }
        if buffer.filled().len() > before {
            // What comes while we are to answer belongs to the body.
            self.begun = self.turn.of_client();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::{Instant, timeout},
    };

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn a_begun_head_must_end_soon() {
        let (mut client, server) = duplex(100);
        let (mut server, turn) = Paced::new(server);
        turn.begin();
        turn.end();
        for _ in 0..2 {
            assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err(), "nothing has begun");
            client.write_all(b"POST ").await.unwrap();
            let start = Instant::now();
            assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 5);
            assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);
            assert_eq!(start.elapsed().as_secs(), 30);
            turn.begin();
            turn.end();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_connection_must_bring_a_request_soon() {
        for begins in [false, true] {
            let (mut client, server) = duplex(100);
            let (mut server, _turn) = Paced::new(server);
            let start = Instant::now();
            if begins {
                client.write_all(b"POST ").await.unwrap();
                assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 5);
            }
            assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);
            assert_eq!(start.elapsed().as_secs(), 60);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_its_answer_is_not_late() {
        let (mut client, server) = duplex(100);
        let (mut server, turn) = Paced::new(server);
        client.write_all(b"POST ").await.unwrap();
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 5);
        turn.begin();
        client.write_all(b"body").await.unwrap();
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 4);
        assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err());
        turn.end();
        assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err(), "the body was no beginning of a head");
    }
}
