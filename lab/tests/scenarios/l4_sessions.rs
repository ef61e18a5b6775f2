//! Many sessions at once.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_lab::weir::binary;
use weir_lab::{Folder, Host, Network, Process, ready, until};

use crate::client::Echo;
use crate::scene::{Arms, Config, ECHO, Mode, Scene, names, vip};

const SESSIONS: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn fullnat_holds_ten_thousand_sessions_that_all_carry_data() {
    if !ready(
        "fullnat_holds_ten_thousand_sessions_that_all_carry_data",
        &[],
    ) {
        return;
    }
    let mut scene = Scene::new(Arms::Two, Mode::Fullnat);
    // In processes of their own: the client alone opens as many files as a process may.
    for name in names() {
        scene.stop_echo(&name);
    }
    let folder = Folder::new();
    let start = |(host, name): (&Host, String)| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo"));
        command.args([&name, &scene.echo_address(&name)]);
        Process::start(&name, &host.namespace, &folder, &mut command)
    };
    let _servers: Vec<Process> = scene
        .network
        .backends
        .iter()
        .zip(names())
        .map(start)
        .collect();
    for name in names() {
        until("a server listens", PATIENCE, || {
            let address = scene.echo_address(&name).parse().unwrap();
            Echo::connect(&scene.network.lb, address).is_ok_and(|echo| echo.name == name)
        });
    }

    let listener = || {
        let listeners = scene.weir.api("listeners");
        let items = listeners["items"].as_array().unwrap().clone();
        items
            .into_iter()
            .find(|item| item["name"] == "echo")
            .unwrap()["traffic"]
            .clone()
    };
    let greeted: usize = scene.network.client.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut streams = Vec::new();
            // A few at a time, as many clients would: a thousand SYNs at once overflow the queues of a veth.
            for _ in 0..SESSIONS / 100 {
                let some: Vec<_> = (0..100).map(|_| tokio::spawn(connect(vip(ECHO)))).collect();
                for stream in some {
                    streams.push(stream.await.unwrap().unwrap());
                }
            }
            until("all sessions in the API", PATIENCE, || {
                listener()["open"].as_u64().unwrap() == SESSIONS as u64
            });
            let sessions = scene.weir.api("sessions?limit=10");
            assert!(
                sessions["total"].as_u64().unwrap() >= SESSIONS as u64,
                "{sessions}"
            );
            assert_eq!(sessions["items"].as_array().unwrap().len(), 10);
            the_command_lists_and_counts(&scene);

            for (number, stream) in streams.iter_mut().enumerate() {
                let words = format!("session {number:08}");
                let mut heard = vec![0; words.len()];
                stream.write_all(words.as_bytes()).await.unwrap();
                tokio::time::timeout(PATIENCE, stream.read_exact(&mut heard))
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(heard, words.as_bytes());
            }
            streams.len()
        })
    });
    assert_eq!(greeted, SESSIONS);
    // Closed by the clients: what remains in the table is on its way out.
    until("no session established", PATIENCE, || {
        let sessions = scene.weir.api("sessions?listener=echo&limit=10000");
        sessions["items"]
            .as_array()
            .unwrap()
            .iter()
            .all(|session| session["state"] != "established")
    });
}

/// `weir sessions`, in pages and by count, and what it says to a wrong filter.
fn the_command_lists_and_counts(scene: &Scene) {
    let run = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("sessions").args(args);
        let output = scene.network.lb.output(&mut command).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    };
    let established = ["--listener", "echo", "--state", "established"];
    let count = run(&[&established[..], &["--count"]].concat()).unwrap();
    assert_eq!(count, SESSIONS.to_string());
    assert_eq!(run(&["--count", "--client", "192.0.2.0/24"]).unwrap(), "0");
    let all = run(&["--limit", "1000000", "--json"]).unwrap();
    let all: Value = serde_json::from_str(&all).unwrap();
    assert!(all["items"].as_array().unwrap().len() >= SESSIONS);
    // In pages, each behind the one before.
    let mut clients = HashSet::new();
    let mut path = "sessions?listener=echo&state=established&limit=3000".to_owned();
    let mut pages = 0;
    loop {
        let page = scene.weir.api(&path);
        pages += 1;
        for item in page["items"].as_array().unwrap() {
            let client = item["client"].as_str().unwrap().to_owned();
            assert!(clients.insert(client), "{item} again");
        }
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("sessions?listener=echo&state=established&limit=3000&cursor={next}");
    }
    assert_eq!((clients.len(), pages), (SESSIONS, SESSIONS.div_ceil(3000)));
    let error = run(&["--state", "open"]).unwrap_err();
    assert!(error.contains("`open` is none of syn_sent, "), "{error}");
    let error = run(&["--listener", "ecko"]).unwrap_err();
    assert!(error.contains("there is no listener `ecko`"), "{error}");
}

/// Connects and hears the greeting.
async fn connect(server: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let mut stream =
        tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(server)).await??;
    let mut greeting = [0; 3];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut greeting)).await??;
    Ok(stream)
}

#[test]
fn a_table_that_no_memory_is_left_for_is_refused() {
    if !ready("a_table_that_no_memory_is_left_for_is_refused", &[]) {
        return;
    }
    let network = Network::one_arm(1);
    let mut config = Config::of(&network, Mode::Nat);
    config.l4_more = "max_sessions = 10_000_000\n".to_owned();
    let folder = Folder::new();
    let file = folder.write("weir.toml", config.text());
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -v 1500000; exec \"$0\" run --config \"$1\""])
        .arg(binary())
        .arg(&file);
    let output = network.lb.output(&mut limited).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for part in [
        "max_sessions = 10000000",
        "MiB for the session tables",
        "within the limit of address space",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!network.arms[0].has_xdp().unwrap());
}

#[test]
fn sessions_are_listed_with_both_ends() {
    if !ready("sessions_are_listed_with_both_ends", &[]) {
        return;
    }
    let scene = Scene::new(Arms::One, Mode::Nat);
    let stream: TcpStream = scene
        .network
        .client
        .run(|| TcpStream::connect(vip(ECHO)))
        .unwrap();
    let client = stream.local_addr().unwrap().to_string();
    until("the session in the API", Duration::from_secs(5), || {
        let sessions = scene.weir.api("sessions");
        let items = sessions["items"].as_array().unwrap();
        items.iter().any(|item| {
            let text = item.to_string();
            text.contains(&client)
                && text.contains(&vip(ECHO).to_string())
                && text.contains("10.1.0.2")
        })
    });
}
