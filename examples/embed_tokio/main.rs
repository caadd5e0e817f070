//! An echo server inside tokio: the reactor runs in a current-thread runtime, together with other tokio tasks.
//!
//! ```text
//! cargo run --release --example embed_tokio                   # listens on 127.0.0.1:7007; tokio on 7008
//! nc 127.0.0.1 7007                                           # the reactor answers
//! nc 127.0.0.1 7008                                           # a tokio task answers
//! ```

#[cfg(unix)]
#[path = "../common/mod.rs"]
mod common;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    program::main()
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this example uses tokio's AsyncFd, which is available on Unix only");
}

#[cfg(unix)]
mod program {
    use std::io::{Error, Result};
    use std::process::ExitCode;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use clap::Parser;
    use tokio::io::unix::AsyncFd;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::Builder;
    use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
    use turnwheel::{Echo, Reactor};

    use super::common;
    use super::common::stdio::{print, say};

    /// Sends back every byte that it receives; a tokio task does the same on another port. Ctrl-C shuts it down
    /// gracefully.
    #[derive(Parser)]
    #[command(name = "embed_tokio")]
    struct Arguments {
        /// Where the reactor listens: HOST:PORT, [IPV6]:PORT or unix:PATH
        #[arg(value_name = "ADDR", default_value = "127.0.0.1:7007")]
        addresses: Vec<String>,

        /// Where tokio listens: IP:PORT
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7008")]
        tokio: std::net::SocketAddr,

        /// How often a tokio task prints how many bytes tokio has echoed, in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        every: u64,

        #[command(flatten)]
        options: common::Options,
    }

    pub(crate) fn main() -> ExitCode {
        let arguments: Arguments = common::parse();
        let listen = |reactor: &mut Reactor| {
            let echo = reactor.add(Echo)?;
            common::listen_all(reactor, &arguments.addresses, echo)
        };
        common::serve_in(&arguments.options, arguments.options.limits(), listen, |reactor| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let at = arguments.tokio;
                let cannot = |e: Error| Error::new(e.kind(), format!("cannot listen on {at}: {e}"));
                let beside = TcpListener::bind(at).await.map_err(cannot)?;
                print(format_args!("tokio is listening on {}", beside.local_addr()?));
                let bytes = Arc::new(AtomicU64::new(0));
                tokio::spawn(tell(Duration::from_millis(arguments.every), Arc::clone(&bytes)));
                tokio::spawn(echo(beside, bytes));
                drive(reactor).await
            })
        })
    }

    /// Runs turns of the reactor until it has stopped. A reactor is not `Send`, so this future is not either: use
    /// `block_on` or a `LocalSet`.
    async fn drive(reactor: Reactor) -> Result<Reactor> {
        // Newer versions of tokio replace this with `register_with_interest`, which is unsafe: the caller must
        // guarantee that the descriptor stays the same and open. A reactor guarantees that, and this example has
        // no unsafe code.
        #[allow(deprecated)]
        let mut reactor = AsyncFd::with_interest(reactor, Interest::READABLE)?;
        loop {
            match reactor.get_mut().next_deadline() {
                // Work is left over: let other tasks run, but do not sleep.
                Some(Duration::ZERO) => tokio::task::yield_now().await,
                Some(due) => {
                    if let Ok(ready) = timeout(due, ready(&mut reactor)).await {
                        ready?;
                    }
                }
                None => ready(&mut reactor).await?,
            }
            if reactor.get_mut().turn(Some(Duration::ZERO))?.stopped {
                return Ok(reactor.into_inner());
            }
        }
    }

    /// Waits until the reactor is readable and clears the readiness before the turn. tokio is edge-triggered: clearing
    /// it after the turn would lose an event that arrives during the turn.
    async fn ready(reactor: &mut AsyncFd<Reactor>) -> Result<()> {
        reactor.readable_mut().await?.clear_ready();
        Ok(())
    }

    async fn tell(every: Duration, bytes: Arc<AtomicU64>) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            say(format_args!("tokio has echoed {} bytes", bytes.load(Ordering::Relaxed)));
        }
    }

    async fn echo(listener: TcpListener, bytes: Arc<AtomicU64>) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(echo_one(stream, Arc::clone(&bytes)))),
                Err(error) => {
                    say(format_args!("tokio cannot accept: {error}"));
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn echo_one(mut stream: TcpStream, bytes: Arc<AtomicU64>) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..n]).await?;
            bytes.fetch_add(n as u64, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    mod tests {
        use turnwheel::Limits;

        use super::*;

        const PATIENCE: Duration = Duration::from_secs(25);

        #[test]
        fn the_reactor_and_tasks_take_turns() {
            let mut limits = Limits::default();
            limits.events_per_turn = 2;
            let mut reactor = Reactor::with_limits(limits).unwrap();
            let at = reactor.listen("127.0.0.1:0", Echo).unwrap().local_addr().unwrap();
            let handle = reactor.handle();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let reactor = runtime.block_on(async {
                // The clients are tasks on the same thread, so neither side may block it.
                let clients: Vec<_> = (0..40).map(|n| tokio::spawn(client(at, n))).collect();
                tokio::spawn(async move {
                    for client in clients {
                        client.await.unwrap();
                    }
                    handle.stop().unwrap();
                });
                timeout(PATIENCE, drive(reactor)).await.expect("no end").unwrap()
            });
            let stats = reactor.stats();
            assert_eq!((stats.accepted, stats.bytes_out, stats.open), (40, 40 * 20 * 100, 0));
        }

        async fn client(at: std::net::SocketAddr, n: u8) {
            let mut client = TcpStream::connect(at).await.unwrap();
            for round in 0..20 {
                let message = [n ^ round; 100];
                client.write_all(&message).await.unwrap();
                let mut back = [0; 100];
                client.read_exact(&mut back).await.unwrap();
                assert_eq!(back, message);
            }
        }
    }
}
