//! `weir run`: brings everything up, in this order, and hands it to its owner.

use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use weir_api::{Access, Connections, Desk, Token, View};
use weir_model::Api;

use crate::control::Control;
use crate::inbox::Signals;
use crate::planes::Planes;
use crate::{check, limits, notify};

/// Threads for health checks and the API. Forwarding has threads of its own; the owner of the state is on the main
/// thread, so that its work on a reload delays no check.
const CONTROL_THREADS: usize = 2;

/// Runs a node until it is told to stop.
pub(crate) fn run(file: &Path) -> Result<ExitCode> {
    block_on(async { Ok(Daemon::start(file).await?.run().await) })
}

/// Runs the control side of a node. What still runs on its threads at the end, such as answers of the API, does not
/// delay the end.
pub(crate) fn block_on<T>(node: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime()?;
    let outcome = runtime.block_on(node);
    runtime.shutdown_background();
    outcome
}

/// The runtime that everything but forwarding runs on.
fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("start the control threads")
}

/// A node that is up.
pub(crate) struct Daemon {
    control: Control,
}

impl Daemon {
    /// Starts a node from its config. When this returns, everything listens and the API answers.
    pub(crate) async fn start(file: &Path) -> Result<Self> {
        let signals = Signals::listen()?;
        let config = check::load(file)?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        limits::raise();
        let access = Access::new(token(&config.api)?);
        let api = bind(&config.api).await?;
        let planes = Arc::new(Planes::start(&config)?);
        let (desk, orders) = Desk::new();
        let control = Control::start(file, config, planes, access.clone(), (signals, orders))?;
        let router = weir_api::router(control.node() as Arc<dyn View>, access, desk);
        tokio::spawn(weir_api::serve(api, router));
        notify::ready();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), file = %file.display(), "weir is up");
        Ok(Self { control })
    }

    /// Runs until told to stop, and tells how it ended.
    pub(crate) async fn run(self) -> ExitCode {
        self.control.run().await.into()
    }
}

/// The token that the API asks for.
pub(crate) fn token(api: &Api) -> Result<Option<Token>> {
    api.token_file
        .as_deref()
        .map(Token::read)
        .transpose()
        .context("[api] token_file")
}

async fn bind(api: &Api) -> Result<Connections> {
    let listener = TcpListener::bind(api.listen)
        .await
        .with_context(|| format!("[api] listen on {}", api.listen))?;
    tracing::info!(address = %api.listen, "the API listens");
    Ok(Connections::new(listener))
}
