//! HTTP/2 and what is spoken over it, between peers of other implementations: curl, h2load, nginx, HAProxy, gRPC, and
//! Python's WebSockets.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use weir_lab::process::Process;
use weir_lab::requirements::find;
use weir_lab::{Folder, Weir, eventually, ready};
use weir_netns::Namespace;

use crate::client::{curl, noise, same_content};

/// Python programs start slowly on a machine that does other things as well.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The distribution's own, which has the distribution's modules.
const PYTHON: &str = "/usr/bin/python3";
const HYPERCORN: &str = "/usr/lib/python3/dist-packages/hypercorn/__init__.py";
const WEBSOCKETS: &str = "/usr/lib/python3/dist-packages/websockets/__init__.py";
const GRPC: &str = "/usr/lib/python3/dist-packages/grpc/__init__.py";

/// weir, in clear and over TLS.
const HTTP: u16 = 8001;
const HTTPS: u16 = 8002;
/// HAProxy, which speaks HTTP/2 to weir.
const CLIENT: u16 = 8003;
const MIRROR: u16 = 8010;
const MIRROR_TLS: u16 = 8011;
const NGINX: u16 = 8012;
const NGINX_TLS: u16 = 8013;
const HAPROXY: u16 = 8014;
const HAPROXY_TLS: u16 = 8015;

/// A namespace whose programs reach each other at its own address, and a certificate for `localhost`.
struct Place {
    namespace: Namespace,
    folder: Folder,
    certificate: PathBuf,
}

impl Place {
    fn new(label: &str) -> Self {
        let folder = Folder::new();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        folder.write("cert.key", signing_key.serialize_pem());
        folder.write("both.pem", cert.pem() + &signing_key.serialize_pem());
        Self {
            namespace: Namespace::new(label).unwrap(),
            certificate: folder.write("cert.pem", cert.pem()),
            folder,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a program and waits until it takes connections on a port.
    fn start(&self, name: &str, command: &mut Command, port: u16) -> Process {
        let command = command.current_dir(self.folder.path());
        let process = Process::start(name, &self.namespace, &self.folder, command);
        eventually(&format!("{name} on port {port}"), START_TIMEOUT, || {
            self.namespace.run(|| TcpStream::connect(at(port)))
        });
        process
    }

    fn python(&self, script: &str) -> Command {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let mut command = Command::new(PYTHON);
        // Nothing is written beside the sources.
        command.arg("-B").arg("-u").arg(peers.join(script));
        command
    }

    /// Runs a script to its end; the lines that it prints.
    fn says(&self, script: &str, args: &[&str]) -> Vec<String> {
        let mut command = Command::new("timeout");
        command.arg("60");
        let python = self.python(script);
        command.arg(python.get_program()).args(python.get_args());
        let output = self.namespace.output(command.args(args)).unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{script} {args:?}: {}\n{printed}{errors}",
            output.status
        );
        printed.lines().map(str::to_owned).collect()
    }

    /// Answers with what it was sent: over HTTP/1.1 and HTTP/2, in clear and over TLS.
    fn mirror(&self) -> Process {
        let mut command = Command::new(PYTHON);
        command
            .args(["-B", "-m", "hypercorn", "mirror:app"])
            .args(["--bind", &format!("127.0.0.1:{MIRROR_TLS}")])
            .args(["--insecure-bind", &format!("127.0.0.1:{MIRROR}")])
            .args(["--certfile", "cert.pem", "--keyfile", "cert.key"])
            .env("PYTHONPATH", self.python("").get_args().last().unwrap());
        self.start("mirror", &mut command, MIRROR)
    }

    /// weir before pools, each by the first part of the path.
    fn weir(&self, pools: &[(&str, String)]) -> Weir {
        let routes = |_: &str| {
            let routes = pools.iter().map(|(name, _)| {
                format!("[[listener.route]]\npath_prefix = \"/{name}\"\npool = \"{name}\"\n")
            });
            routes.collect::<String>()
        };
        let listener = |name: &str, port: u16, extra: &str| {
            format!(
                "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:{port}\"\nprotocol = \"{name}\"\n{extra}\n{}",
                routes(name)
            )
        };
        let pools = pools.iter().map(|(name, pool)| {
            let tls = format!(
                "tls = {{ ca_file = {:?}, server_name = \"localhost\" }}",
                self.certificate
            );
            format!(
                "[[pool]]\nname = \"{name}\"\n{}\n",
                pool.replace("TLS", &tls)
            )
        });
        let config = [
            listener("http", HTTP, ""),
            listener(
                "https",
                HTTPS,
                &format!(
                    "certificates = [{{ cert_file = {:?}, key_file = {:?} }}]",
                    self.certificate,
                    self.file("cert.key")
                ),
            ),
            pools.collect(),
        ];
        Weir::start(&self.namespace, &config.concat())
    }
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn backend(port: u16) -> String {
    format!("backend = [{{ address = \"{}\" }}]", at(port))
}

/// nginx and HAProxy before the mirror: HTTP/2 to them, HTTP/1.1 from them.
fn peers_up(place: &Place) -> [Process; 2] {
    let nginx = format!(
        "daemon off; master_process off; user root; pid {folder}/nginx.pid; error_log stderr;
        events {{ worker_connections 1024; }}
        http {{
          access_log off; client_max_body_size 0; proxy_max_temp_file_size 0;
          client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
          uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
          server {{
            listen {NGINX} http2; listen {NGINX_TLS} ssl http2;
            ssl_certificate cert.pem; ssl_certificate_key cert.key;
            location / {{ proxy_pass http://127.0.0.1:{MIRROR}; proxy_http_version 1.1; }}
          }}
        }}",
        folder = place.folder.path().display()
    );
    let mut command = Command::new(find("nginx").unwrap());
    command
        .args(["-e", "stderr", "-p"])
        .arg(place.folder.path());
    command
        .arg("-c")
        .arg(place.folder.write("nginx.conf", nginx));
    let nginx = place.start("nginx", &mut command, NGINX);
    let haproxy = format!(
        "global\nmaxconn 1000\ndefaults\nmode http\ntimeout client 20s\ntimeout server 20s\ntimeout connect 5s\n\
         frontend up\nbind 127.0.0.1:{HAPROXY} proto h2\nbind 127.0.0.1:{HAPROXY_TLS} ssl crt both.pem alpn h2\n\
         default_backend mirror\n\
         backend mirror\nserver mirror 127.0.0.1:{MIRROR}\n\
         frontend client\nbind 127.0.0.1:{CLIENT}\ndefault_backend weir\n\
         backend weir\nserver weir 127.0.0.1:{HTTP} proto h2\n"
    );
    let mut command = Command::new(find("haproxy").unwrap());
    command
        .args(["-db", "-f"])
        .arg(place.folder.write("haproxy.cfg", haproxy));
    [nginx, place.start("haproxy", &mut command, HAPROXY)]
}

#[test]
fn the_same_bodies_arrive_over_every_version_of_http() {
    let programs = ["curl", "nginx", "haproxy", HYPERCORN];
    if !ready(
        "the_same_bodies_arrive_over_every_version_of_http",
        &programs,
    ) {
        return;
    }
    let place = Place::new("bodies");
    let _mirror = place.mirror();
    let _peers = peers_up(&place);
    let http2 = |port: u16| format!("protocol = \"http2\"\n{}", backend(port));
    let pools = [
        ("h1", backend(MIRROR)),
        ("h1-tls", format!("TLS\n{}", backend(MIRROR_TLS))),
        ("h2", http2(MIRROR)),
        ("h2-tls", format!("TLS\n{}", http2(MIRROR_TLS))),
        ("nginx", http2(NGINX)),
        ("nginx-tls", format!("TLS\n{}", http2(NGINX_TLS))),
        ("haproxy", http2(HAPROXY)),
        ("haproxy-tls", format!("TLS\n{}", http2(HAPROXY_TLS))),
    ];
    let weir = place.weir(&pools);
    let clients: [(&[&str], &str, u16); 5] = [
        (&["--http1.1"], "http", HTTP),
        (&["--http2-prior-knowledge"], "http", HTTP),
        (&["--http1.1"], "https", HTTPS),
        (&["--http2"], "https", HTTPS),
        // HTTP/2 by HAProxy.
        (&["--http1.1"], "http", CLIENT),
    ];
    // What fits one frame, what needs the windows given back, an odd length (no length in the answer), and nothing.
    let bodies = [0, 1, 16_385, 1_500_000];
    let bodies = bodies.map(|length| {
        let name = format!("body-of-{length}");
        (length, place.folder.write(&name, noise(length)))
    });
    let copy = place.file("copy");
    for (name, _) in &pools {
        let is_http2 = name.starts_with("h2");
        for (version, scheme, port) in clients {
            for (length, body) in &bodies {
                let upload = format!("@{}", body.display());
                let url = format!("{scheme}://localhost:{port}/{name}");
                let mut args = version.to_vec();
                args.extend(["--cacert", place.certificate.to_str().unwrap()]);
                args.extend(["--output", copy.to_str().unwrap(), "--data-binary", &upload]);
                args.extend(["--write-out", "%{http_version} %header{x-version}", &url]);
                let what = format!("{length} bytes with {version:?} to {url}");
                let seen =
                    curl(&place.namespace, &args).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(same_content(body, &copy), "{what}");
                let client = if version[0].starts_with("--http2") {
                    "2"
                } else {
                    "1.1"
                };
                // Hypercorn says what it was spoken to in; nginx speaks 1.1 to it, and HAProxy, too.
                let backend = if is_http2 { "2" } else { "1.1" };
                assert_eq!(seen, format!("{client} {backend}"), "{what}");
            }
        }
    }
    // The requests of a pool share what connections there are.
    for (name, _) in pools.iter().filter(|(name, _)| !name.starts_with("h1")) {
        let pool = format!("pool=\"{name}\"");
        let opened = weir.metric("weir_backend_connections_total", &[&pool]);
        let requests = weir.metric("weir_backend_requests_total", &[&pool]);
        assert!(opened * 2.0 <= requests, "{name}: {opened} for {requests}");
    }
}

#[test]
fn h2load_gets_nothing_but_good_answers() {
    let programs = ["h2load", HYPERCORN, "nginx", "haproxy"];
    if !ready("h2load_gets_nothing_but_good_answers", &programs) {
        return;
    }
    let place = Place::new("h2load");
    let _mirror = place.mirror();
    let _peers = peers_up(&place);
    let _weir = place.weir(&[(
        "haproxy",
        format!("protocol = \"http2\"\n{}", backend(HAPROXY)),
    )]);
    let body = place.folder.write("upload", noise(20_000));
    for url in [
        format!("http://localhost:{HTTP}/haproxy"),
        format!("https://localhost:{HTTPS}/haproxy"),
    ] {
        let mut command = Command::new(find("h2load").unwrap());
        command.args(["-n", "600", "-c", "5", "-m", "30", "-d"]);
        let output = place
            .namespace
            .output(command.arg(&body).arg(&url))
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let good =
            "600 total, 600 started, 600 done, 600 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(text.contains(good), "{url}: {text}");
    }
}

#[test]
fn grpc_of_another_implementation_works_both_ways() {
    if !ready("grpc_of_another_implementation_works_both_ways", &[GRPC]) {
        return;
    }
    let place = Place::new("grpc");
    let (clear, tls) = (8020, 8021);
    let mut servers = Vec::new();
    for (name, port, files) in [
        ("grpc", clear, &[][..]),
        ("grpc-tls", tls, &["cert.pem", "cert.key"]),
    ] {
        let mut command = place.python("grpc_server.py");
        command.arg(at(port).to_string()).args(files);
        servers.push(place.start(name, &mut command, port));
    }
    let expected = [
        "unary b'hello there' 1",
        "large True",
        "stream down True 1000",
        "stream up b'8192000'",
        "both ways True",
        "error ('INVALID_ARGUMENT', 'no: ä', 'because')",
        "first b'first'",
        "error behind it ('DATA_LOSS', 'the rest is gone', None)",
        "unknown UNIMPLEMENTED",
        "deadline DEADLINE_EXCEEDED",
        "deadline is told True",
        "cancelled True b'still there'",
        "no backend UNAVAILABLE",
    ];
    for (tls_up, port) in [("", clear), ("TLS\n", tls)] {
        let server = format!("{tls_up}protocol = \"http2\"\n{}", backend(port));
        // Nobody listens there.
        let gone = format!("protocol = \"http2\"\n{}", backend(9));
        let _weir = place.weir(&[("test.Test", server), ("gone", gone)]);
        let certificate = place.certificate.to_str().unwrap();
        for args in [
            &[&at(HTTP).to_string()[..]][..],
            &[&at(HTTPS).to_string(), certificate],
        ] {
            let said = place.says("grpc_client.py", args);
            assert_eq!(said, expected, "{args:?}, {server:?}", server = tls_up);
        }
    }
}

#[test]
fn websockets_of_another_implementation_work_over_both_versions() {
    let name = "websockets_of_another_implementation_work_over_both_versions";
    if !ready(name, &[HYPERCORN, WEBSOCKETS]) {
        return;
    }
    let place = Place::new("websocket");
    let _mirror = place.mirror();
    let _weir = place.weir(&[
        ("h1", backend(MIRROR)),
        ("h1-tls", format!("TLS\n{}", backend(MIRROR_TLS))),
    ]);
    let certificate = place.certificate.to_str().unwrap();
    let (http, https) = (HTTP.to_string(), HTTPS.to_string());
    let old = ["True", "True", "True", "True", "closed 1000"];
    for args in [
        &[&format!("ws://localhost:{HTTP}/h1")[..]][..],
        &[&format!("ws://localhost:{HTTP}/h1-tls")],
        &[&format!("wss://localhost:{HTTPS}/h1"), certificate],
    ] {
        assert_eq!(place.says("websocket_client.py", args), old, "{args:?}");
    }
    for args in [
        &["h2", "localhost", &http][..],
        &["h2", "localhost", &https, certificate],
    ] {
        let said = place.says("websocket_client.py", args);
        assert_eq!(said[0], "status 200", "{args:?}");
        assert_eq!(said[1..], old, "{args:?}");
    }
}
