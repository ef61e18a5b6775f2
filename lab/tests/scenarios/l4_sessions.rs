//! Many sessions at once.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_lab::{Folder, Host, Process, ready, until};

use crate::client::Echo;
use crate::scene::{Arms, ECHO, Mode, Scene, names, vip};

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

/// Connects and hears the greeting.
async fn connect(server: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let mut stream =
        tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(server)).await??;
    let mut greeting = [0; 3];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut greeting)).await??;
    Ok(stream)
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
