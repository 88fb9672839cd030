//! Limits the time between the first byte of a request and the end of its head. hyper limits the idle time before it,
//! and the handler limits the body.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::connection_state::ConnectionState;

/// From the first byte of a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// From the connection to the end of the first head. The keep-alive timeout applies only after the first request.
const FIRST_TIMEOUT: Duration = Duration::from_mins(1);

/// A connection that reports end-of-file when the head of a request is not received in time, or when the connection is
/// evicted.
pub(super) struct HeadTimeoutStream<S = TcpStream> {
    stream: S,
    state: ConnectionState,
    /// The phase ([`ConnectionState::waiting`]: one number for each wait for a request) in which the timeout runs: the
    /// one in which the first byte of a request was received, or 0, which begins with the connection.
    timed_phase: Option<u32>,
    /// The timer of that phase. Most heads are received at once and need none.
    timer: Option<(u32, Pin<Box<Sleep>>)>,
}

impl<S> HeadTimeoutStream<S> {
    /// The state must be notified of the begin and end of each request.
    pub(super) fn new(stream: S, state: ConnectionState) -> Self {
        Self { stream, state, timed_phase: Some(0), timer: None }
    }

    /// Whether the timeout has expired. Called while no data is available.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(phase) = self.timed_phase.filter(|phase| self.state.waiting() == Some(*phase)) else {
            return Poll::Pending;
        };
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
            return if self.state.poll_evicted(cx).is_ready() {
                Poll::Ready(Ok(()))
            } else {
                self.poll_timeout(cx).map(Ok)
            };
        }
        if buffer.filled().len() > before {
            // Data received while a request is processed belongs to its body.
            self.timed_phase = self.state.waiting();
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
    use std::sync::Arc;

    use futures::FutureExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::{Instant, timeout},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn stream<S>(stream: S) -> (HeadTimeoutStream<S>, ConnectionState) {
        let state = ConnectionState::new(Arc::default(), CancellationToken::new());
        (HeadTimeoutStream::new(stream, state.clone()), state)
    }

    #[tokio::test(start_paused = true)]
    async fn incomplete_head_closes_the_connection_after_30_seconds() {
        let (mut client, server) = duplex(100);
        let (mut server, state) = stream(server);
        state.begin_request();
        assert!(!state.end_request());
        for _ in 0..2 {
            assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err(), "no request has started");
            client.write_all(b"POST ").await.unwrap();
            let start = Instant::now();
            assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 5);
            assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);
            assert_eq!(start.elapsed().as_secs(), 30);
            state.begin_request();
            assert!(!state.end_request());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_request_closes_after_60_seconds() {
        for begins in [false, true] {
            let (mut client, server) = duplex(100);
            let (mut server, _state) = stream(server);
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
        let (mut server, state) = stream(server);
        client.write_all(b"POST ").await.unwrap();
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 5);
        state.begin_request();
        client.write_all(b"body").await.unwrap();
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 4);
        assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err());
        assert!(!state.end_request());
        assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err(), "the body does not begin a head");
    }

    #[tokio::test(start_paused = true)]
    async fn evicted_connection_ends_once_it_waits_for_a_request() {
        let (mut client, server) = duplex(100);
        let (mut server, state) = stream(server);
        state.begin_request();
        state.evict();
        assert!(timeout(LONG, server.read(&mut [0; 10])).await.is_err(), "the request is finished");
        assert!(state.end_request(), "its response closes the connection");
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);

        // A connection that is already waiting is woken up.
        let (mut server, state) = stream(duplex(100).1);
        let waiting = tokio::spawn(async move { server.read(&mut [0; 10]).await.unwrap() });
        tokio::task::yield_now().await;
        state.evict();
        assert_eq!(waiting.await.unwrap(), 0);

        // Data that was received before is still read.
        let (mut server, state) = stream(client_pair(&mut client));
        state.evict();
        assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 4);
    }

    /// The server's end of a new connection that has received four bytes.
    fn client_pair(client: &mut tokio::io::DuplexStream) -> tokio::io::DuplexStream {
        let (new, server) = duplex(100);
        *client = new;
        client.write_all(b"POST").now_or_never().unwrap().unwrap();
        server
    }
}
