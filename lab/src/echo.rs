//! Servers that say back what they hear.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_netns::Namespace;

/// How often a server looks whether it should end.
const TICK: Duration = Duration::from_millis(20);

/// A TCP server that begins each connection with its name and a newline, and then says back what it hears.
pub struct TcpEcho {
    accepted: Arc<AtomicU64>,
    refusing: Arc<AtomicBool>,
    server: Server,
}

/// A UDP server that sends each datagram back behind its name and a space.
pub struct UdpEcho {
    heard: Arc<AtomicU64>,
    server: Server,
}

/// A thread that ends when it is told to.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TcpEcho {
    /// Starts the server in a namespace.
    ///
    /// # Panics
    /// Where the address is taken.
    pub fn start(namespace: &Namespace, name: &str, address: SocketAddr) -> Self {
        namespace.run(|| Self::start_here(name, address))
    }

    /// Starts the server in the calling thread's namespace.
    ///
    /// # Panics
    /// As [`TcpEcho::start`].
    pub fn start_here(name: &str, address: SocketAddr) -> Self {
        let listener =
            listen(address).unwrap_or_else(|error| panic!("listen on {address}: {error}"));
        let accepted = Arc::new(AtomicU64::new(0));
        let (counter, greeting) = (Arc::clone(&accepted), format!("{name}\n"));
        let refusing = Arc::new(AtomicBool::new(false));
        let refuse = Arc::clone(&refusing);
        let server = Server::start(move |stop| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("make a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .expect("a listener fits the runtime");
                while !stop.load(Ordering::Relaxed) && !refuse.load(Ordering::Relaxed) {
                    let Ok(Ok((stream, _))) = tokio::time::timeout(TICK, listener.accept()).await
                    else {
                        continue;
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    let greeting = greeting.clone();
                    tokio::spawn(async move {
                        // A client may be gone at any time.
                        let _ = echo(stream, &greeting).await;
                    });
                }
                drop(listener);
                while !stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(TICK).await;
                }
            });
        });
        Self {
            accepted,
            refusing,
            server,
        }
    }

    /// Stops listening; what is connected goes on.
    pub fn refuse(&self) {
        self.refusing.store(true, Ordering::Relaxed);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Resets its connections and stops listening.
    pub fn stop(self) {
        drop(self.server);
    }
}

impl UdpEcho {
    /// Starts the server in a namespace. Replies come from the address that it is bound to.
    ///
    /// # Panics
    /// Where the address is taken.
    pub fn start(namespace: &Namespace, name: &str, address: SocketAddr) -> Self {
        let socket = namespace
            .run(|| UdpSocket::bind(address))
            .unwrap_or_else(|error| panic!("bind {address}: {error}"));
        socket
            .set_read_timeout(Some(TICK))
            .expect("sockets have timeouts");
        let heard = Arc::new(AtomicU64::new(0));
        let (counter, name) = (Arc::clone(&heard), name.to_owned());
        let server = Server::start(move |stop| {
            let mut buffer = vec![0; 65536];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                counter.fetch_add(1, Ordering::Relaxed);
                let mut reply = format!("{name} ").into_bytes();
                reply.extend_from_slice(&buffer[..len]);
                // A client may be gone at any time.
                let _ = socket.send_to(&reply, from);
            }
        });
        Self { heard, server }
    }

    /// Datagrams heard so far.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Stops listening.
    pub fn stop(self) {
        drop(self.server);
    }
}

impl Server {
    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        Self {
            stop,
            thread: Some(thread::spawn(move || work(&told))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been printed, and the scenario misses its answers.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(16384)?;
    Ok(socket.into())
}

async fn echo(mut stream: tokio::net::TcpStream, greeting: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(greeting.as_bytes()).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..len]).await?;
    }
}
