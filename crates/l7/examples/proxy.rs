//! A proxy from the command line, to try and to measure the engine without the daemon:
//! `proxy LISTEN BACKEND...`, or `proxy CONFIG`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use weir_l7::Engine;
use weir_model::{Config, Snapshot};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, text) = match arguments.as_slice() {
        [file] => (Path::new(file), std::fs::read_to_string(file)?),
        [listen, backends @ ..] if !backends.is_empty() => {
            let bind: SocketAddr = listen.parse()?;
            let backends: Vec<String> = backends
                .iter()
                .map(|address| format!("{{ address = \"{address}\" }}"))
                .collect();
            let text = format!(
                "[l7]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"{bind}\"\nprotocol = \"http\"\npool = \"web\"\n\
                 [[pool]]\nname = \"web\"\nbackend = [{}]\n",
                backends.join(", ")
            );
            (Path::new("arguments"), text)
        }
        _ => return Err("usage: proxy LISTEN BACKEND... | proxy CONFIG".into()),
    };
    let config = Arc::new(Config::parse(&text, file)?);
    let engine = Engine::start(&config.l7)?;
    engine.commit(engine.prepare(Arc::new(Snapshot::new(config)))?);
    loop {
        std::thread::park();
    }
}
