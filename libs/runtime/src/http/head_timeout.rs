//! Limits the time between the first byte of a request and the end of its head. hyper limits the idle time before it,
//! and the handler limits the body.

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

/// From the first byte of a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// From the connection to the end of the first head. The keep-alive timeout applies only after the first request.
const FIRST_TIMEOUT: Duration = Duration::from_mins(1);

/// The phase of a connection as a counter: even while it waits for a request, odd while a request is processed.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionPhase(Arc<AtomicU32>);

impl ConnectionPhase {
    /// The head of a request was received.
    pub(super) fn begin_request(&self) {
        self.0.fetch_or(1, Ordering::Relaxed);
    }

    /// The response is complete.
    pub(super) fn end_request(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The counter while the connection waits for a request.
    fn waiting(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|phase| phase % 2 == 0)
    }
}

/// A connection that reports end-of-file when the head of a request is not received in time.
pub(super) struct HeadTimeoutStream<S = TcpStream> {
    stream: S,
    phase: ConnectionPhase,
    /// The phase in which the first byte of a request was received. The first phase begins with the connection.
    begun: Option<u32>,
    /// The timer of that phase. Most heads are received at once and need none.
    timer: Option<(u32, Pin<Box<Sleep>>)>,
}

impl<S> HeadTimeoutStream<S> {
    /// The phase must be notified of the begin and end of each request.
    pub(super) fn new(stream: S) -> (Self, ConnectionPhase) {
        let phase = ConnectionPhase::default();
        (Self { stream, phase: phase.clone(), begun: Some(0), timer: None }, phase)
    }

    /// Whether the timeout has expired. Called while no data is available.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(phase) = self.begun.filter(|begun| self.phase.waiting() == Some(*begun)) else { return Poll::Pending };
        match &mut self.timer {
            Some((of, timer)) if *of == phase => timer.as_mut().poll(cx),
            timer => {
                let timeout = if phase == 0 { FIRST_TIMEOUT } else { HEAD_TIMEOUT };
                timer.insert((phase, Box::pin(sleep(timeout)))).1.as_mut().poll(cx)
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadTimeoutStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() {
            // A read without data and without error means end-of-file.
            return self.poll_timeout(cx).map(Ok);
        }
        if buffer.filled().len() > before {
            // Data received while a request is processed belongs to its body.
            self.begun = self.phase.waiting();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadTimeoutStream<S> {
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
    async fn incomplete_head_closes_the_connection_after_30_seconds() {
        let (mut client, server) = duplex(100);
        let (mut server, phase) = HeadTimeoutStream::new(server);
        phase.begin_request();
        phase.end_request();
        for _ in 0..2 {
            assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err(), "no request has started");
            client.write_all(b"POST ").await.unwrap();
            let start = Instant::now();
            assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 5);
            assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);
            assert_eq!(start.elapsed().as_secs(), 30);
            phase.begin_request();
            phase.end_request();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_request_closes_after_60_seconds() {
        for begins in [false, true] {
            let (mut client, server) = duplex(100);
            let (mut server, _phase) = HeadTimeoutStream::new(server);
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
    async fn client_that_waits_for_its_response_has_no_timeout() {
        let (mut client, server) = duplex(100);
        let (mut server, phase) = HeadTimeoutStream::new(server);
        client.write_all(b"POST ").await.unwrap();
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 5);
        phase.begin_request();
        client.write_all(b"body").await.unwrap();
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 4);
        assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err());
        phase.end_request();
        assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err(), "the body does not begin a head");
    }
}
