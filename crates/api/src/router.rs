//! The routes of the API.
#![expect(unused_qualifications, reason = "utoipa's macros write paths out")]

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi};

use crate::connections::Connections;
use crate::error::{ApiError, ErrorBody};
use crate::metrics::Metrics;
use crate::order::{BackendName, Desk, Order, Override, OverrideView};
use crate::token::Access;
use crate::view::{BackendView, ListenerView, Page, PoolView, SessionFilter, SessionPage, View};
use weir_model::Endpoints;

/// Sessions in an answer where the question sets no limit.
const SESSIONS_DEFAULT: usize = 100;
/// Sessions in an answer at most: about 3 MB of JSON.
const SESSIONS_MOST: usize = 10_000;
/// An order's body.
const ORDER_BYTES_MAX: usize = 4096;

/// Everything the API answers. `/healthz` is open to all; the rest needs the token, where there is one.
pub fn router(view: Arc<dyn View>, access: Access, desk: Desk) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/listeners", get(listeners))
        .route("/api/v1/pools", get(pools))
        .route("/api/v1/backends", get(backends))
        .route("/api/v1/sessions", get(sessions))
        .route("/api/v1/overrides", get(overrides))
        .route(
            "/api/v1/overrides/{pool}/{backend}",
            patch(set_override).delete(clear_override),
        )
        .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX))
        .route("/api/v1/openapi.json", get(openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(access, guard));
    Router::new()
        .route("/healthz", get(healthz))
        .method_not_allowed_fallback(method_not_allowed)
        .merge(guarded)
        .with_state(Shared {
            metrics: Arc::new(Metrics::new(Arc::clone(&view))),
            view,
            desk,
        })
}

/// Serves the API until its task is dropped.
pub async fn serve(connections: Connections, router: Router) {
    // The error is never: accepting goes on after every failure.
    let _ = axum::serve(connections, router).await;
}

#[derive(Clone)]
struct Shared {
    view: Arc<dyn View>,
    metrics: Arc<Metrics>,
    desk: Desk,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "weir", description = "A node of the weir load balancer."),
    paths(
        healthz,
        metrics,
        listeners,
        pools,
        backends,
        sessions,
        overrides,
        set_override,
        clear_override
    )
)]
struct Description;

/// Whether the node takes new work: for whoever sends it work, and for supervisors.
#[utoipa::path(get, path = "/healthz", responses(
    (status = 200, description = "The node takes new work.", body = str, content_type = "text/plain"),
    (status = 503, description = "The node drains and is about to stop.", body = str, content_type = "text/plain"),
))]
async fn healthz(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.view.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// Metrics in the text format of OpenMetrics 1.0, which Prometheus reads.
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "See docs/metrics.md.", body = str, content_type = "application/openmetrics-text"),
    (status = 401, description = "The token is missing or wrong.", body = ErrorBody),
))]
async fn metrics(State(shared): State<Shared>) -> Result<Response, ApiError> {
    let text = blocking(move || shared.metrics.encode()).await??;
    Ok((
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
        .into_response())
}

/// Listeners, in the order of the file.
#[utoipa::path(get, path = "/api/v1/listeners", responses(
    (status = 200, description = "All of them.", body = Page<ListenerView>),
    (status = 401, description = "The token is missing or wrong.", body = ErrorBody),
))]
async fn listeners(State(shared): State<Shared>) -> Result<Json<Page<ListenerView>>, ApiError> {
    blocking(move || Json(Page::whole(shared.view.listeners()))).await
}

/// Pools, in the order of the file.
#[utoipa::path(get, path = "/api/v1/pools", responses(
    (status = 200, description = "All of them.", body = Page<PoolView>),
    (status = 401, description = "The token is missing or wrong.", body = ErrorBody),
))]
async fn pools(State(shared): State<Shared>) -> Result<Json<Page<PoolView>>, ApiError> {
    blocking(move || Json(Page::whole(shared.view.pools()))).await
}

/// Which backends are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BackendQuery {
    /// Only of this pool.
    pool: Option<String>,
}

/// Backends, pool by pool in the order of the file.
#[utoipa::path(get, path = "/api/v1/backends", params(BackendQuery), responses(
    (status = 200, description = "Those that fit.", body = Page<BackendView>),
    (status = 400, description = "The query cannot be understood.", body = ErrorBody),
    (status = 401, description = "The token is missing or wrong.", body = ErrorBody),
))]
async fn backends(
    State(shared): State<Shared>,
    query: Result<Query<BackendQuery>, QueryRejection>,
) -> Result<Json<Page<BackendView>>, ApiError> {
    let query = parsed(query)?;
    let mut backends = blocking(move || shared.view.backends()).await?;
    if let Some(pool) = query.pool {
        backends.retain(|backend| backend.pool == pool);
    }
    Ok(Json(Page::whole(backends)))
}

/// Which sessions are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SessionQuery {
    /// Only of this listener.
    listener: Option<String>,
    /// Only to backends of this pool.
    pool: Option<String>,
    /// Only of these clients: an IP address, an IP address with a port, or a range such as 192.0.2.0/24.
    client: Option<String>,
    /// Only with this in the client's place, as for `client`.
    local: Option<String>,
    /// Only to these backends, as for `client`.
    backend: Option<String>,
    /// `tcp` or `udp`.
    protocol: Option<String>,
    /// `fullnat`, `nat`, `dr` or `tunnel`.
    forward: Option<String>,
    /// The state, as in answers: `established` for one.
    state: Option<String>,
    /// At most so many; 100 when absent. With 0, they are only counted.
    #[param(minimum = 0, maximum = 10_000, default = 100)]
    limit: Option<usize>,
    /// `next` of a former answer to the same question: goes on behind it.
    cursor: Option<String>,
}

impl SessionQuery {
    fn filter(self) -> Result<SessionFilter, ApiError> {
        let ends = |name: &str, text: Option<String>| {
            text.map(|text| text.parse::<Endpoints>())
                .transpose()
                .map_err(|error| ApiError::bad_request(format!("{name}: {error}")))
        };
        let limit = self.limit.unwrap_or(SESSIONS_DEFAULT);
        if limit > SESSIONS_MOST {
            return Err(ApiError::bad_request(format!(
                "limit: {limit} is above {SESSIONS_MOST}"
            )));
        }
        Ok(SessionFilter {
            listener: self.listener,
            pool: self.pool,
            client: ends("client", self.client)?,
            local: ends("local", self.local)?,
            backend: ends("backend", self.backend)?,
            protocol: self.protocol,
            forward: self.forward,
            state: self.state,
            limit,
            cursor: self.cursor,
        })
    }
}

/// Layer 4 sessions. Empty where layer 4 does not run. A session that is there from the first question to the last one is
/// in exactly one of the answers that follow each other by `cursor`.
#[utoipa::path(get, path = "/api/v1/sessions", params(SessionQuery), responses(
    (status = 200, description = "Those that fit, up to the limit; `total` counts all that fit.", body = SessionPage),
    (status = 400, description = "The query cannot be understood.", body = ErrorBody),
    (status = 401, description = "The token is missing or wrong.", body = ErrorBody),
))]
async fn sessions(
    State(shared): State<Shared>,
    query: Result<Query<SessionQuery>, QueryRejection>,
) -> Result<Json<SessionPage>, ApiError> {
    let filter = parsed(query)?.filter()?;
    let page = blocking(move || shared.view.sessions(&filter)).await?;
    page.map(Json).map_err(ApiError::bad_request)
}

/// What operators have set in place of the config.
#[utoipa::path(get, path = "/api/v1/overrides", responses(
    (status = 200, description = "All of them.", body = Page<OverrideView>),
    (status = 401, description = "The token is missing or wrong.", body = ErrorBody),
))]
async fn overrides(State(shared): State<Shared>) -> Json<Page<OverrideView>> {
    Json(Page::whole(shared.view.overrides()))
}

/// Sets something of a backend in place of the config. What is not given stays as it is.
#[utoipa::path(patch, path = "/api/v1/overrides/{pool}/{backend}", request_body = Override,
    params(("pool" = String, Path), ("backend" = String, Path, example = "10.0.2.11:8080")),
    responses(
    (status = 200, description = "What is set now; it is in force, and kept.", body = Override),
    (status = 400, description = "The order cannot be understood.", body = ErrorBody),
    (status = 401, description = "The token is missing or wrong.", body = ErrorBody),
    (status = 403, description = "Without a token, and for a host that is no address.", body = ErrorBody),
    (status = 404, description = "The config has no such backend.", body = ErrorBody),
    (status = 500, description = "It cannot be kept or put in force; nothing has changed.", body = ErrorBody),
    (status = 503, description = "The node is about to stop.", body = ErrorBody),
))]
async fn set_override(
    State(shared): State<Shared>,
    Path((pool, backend)): Path<(String, String)>,
    headers: HeaderMap,
    change: Result<Json<Override>, JsonRejection>,
) -> Result<Json<Override>, ApiError> {
    check_origin(&headers)?;
    let Json(change) = change.map_err(|error| ApiError::bad_request(error.body_text()))?;
    if change.is_empty() {
        return Err(ApiError::bad_request("expected `state` or `weight`"));
    }
    if change
        .weight
        .is_some_and(|weight| weight > weir_model::MAX_WEIGHT)
    {
        return Err(ApiError::bad_request(format!(
            "weight: expected 0 to {}",
            weir_model::MAX_WEIGHT
        )));
    }
    let order = Order::Set(backend_name(pool, &backend)?, change);
    Ok(Json(shared.desk.order(order).await?))
}

/// Clears what is set of a backend: it goes by the config again.
#[utoipa::path(delete, path = "/api/v1/overrides/{pool}/{backend}",
    params(("pool" = String, Path), ("backend" = String, Path, example = "10.0.2.11:8080")),
    responses(
    (status = 200, description = "Nothing is set any more.", body = Override),
    (status = 401, description = "The token is missing or wrong.", body = ErrorBody),
    (status = 403, description = "Without a token, and for a host that is no address.", body = ErrorBody),
    (status = 404, description = "Nothing is set of such a backend.", body = ErrorBody),
    (status = 500, description = "It cannot be kept or put in force; nothing has changed.", body = ErrorBody),
    (status = 503, description = "The node is about to stop.", body = ErrorBody),
))]
async fn clear_override(
    State(shared): State<Shared>,
    Path((pool, backend)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Override>, ApiError> {
    check_origin(&headers)?;
    let order = Order::Clear(backend_name(pool, &backend)?);
    Ok(Json(shared.desk.order(order).await?))
}

fn backend_name(pool: String, backend: &str) -> Result<BackendName, ApiError> {
    let address = backend
        .parse()
        .map_err(|_| ApiError::bad_request(format!("{backend:?} is not an address with a port")))?;
    Ok(BackendName { pool, address })
}

/// Where nothing is asked for, a page in the operator's browser could order by a name that leads here (DNS rebinding): who
/// has no token must have asked for an address, or for `localhost`.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(header::AUTHORIZATION) {
        return Ok(());
    }
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let is_own = |host: &str| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        host.parse::<std::net::SocketAddr>().is_ok()
            || host.parse::<std::net::IpAddr>().is_ok()
            || name.parse::<std::net::Ipv4Addr>().is_ok()
            || name == "localhost"
    };
    if host.is_some_and(is_own) {
        Ok(())
    } else {
        Err(ApiError::forbidden(
            "without a token, ask for an address or for `localhost`",
        ))
    }
}

async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found(uri.path())
}

async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::method_not_allowed(method.as_str())
}

async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    if access.lets_in(authorization.map(HeaderValue::as_bytes)) {
        next.run(request).await
    } else {
        ApiError::unauthorized().into_response()
    }
}

fn parsed<Q>(query: Result<Query<Q>, QueryRejection>) -> Result<Q, ApiError> {
    query
        .map(|Query(query)| query)
        .map_err(|rejection| ApiError::bad_request(rejection.body_text()))
}

/// Views read counters of all workers and walk through sessions: not on a thread that has others to serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use axum::body::{Body, to_bytes};
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::order::{Ask, OrderError, OverrideState};
    use crate::token::Token;
    use crate::view::{
        AccessLogView, CertificateView, CheckView, ChecksView, CoreView, DropView, HealthView,
        InterfaceView, LatencyView, NodeView, PoolCertificateView, ProcessView, ReloadsView,
        RouteView, SessionsView, StickySessionsView, TlsView, Traffic,
    };

    const DRAINING: Override = Override {
        state: Some(OverrideState::Draining),
        weight: None,
    };

    /// A node with one of everything.
    #[derive(Default)]
    struct Sample {
        draining: bool,
        asked: Mutex<Vec<SessionFilter>>,
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn instant() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000_000)
    }

    fn latency() -> LatencyView {
        LatencyView {
            buckets: vec![(0.000_125, 5), (0.000_25, 3), (f64::INFINITY, 1)],
            sum: Duration::from_millis(2500),
        }
    }

    /// What both a listener and a backend may have.
    fn traffic() -> Traffic {
        Traffic {
            connections: 7,
            open: Some(2),
            bytes_in: Some(100),
            bytes_out: Some(2000),
            packets_in: Some(11),
            packets_out: Some(12),
            requests: Some(9),
            drops: vec![DropView {
                reason: "no_backend",
                count: 3,
            }],
            ..Traffic::default()
        }
    }

    impl View for Sample {
        fn is_draining(&self) -> bool {
            self.draining
        }

        fn node(&self) -> NodeView {
            NodeView {
                name: "lb-1".into(),
                version: "0.1.0",
                started: instant(),
                generation: 5,
                reloads: ReloadsView {
                    succeeded: 2,
                    failed: 1,
                    last_succeeded: false,
                    last: instant(),
                },
                drops: vec![DropView {
                    reason: "not_tcp_syn",
                    count: 4,
                }],
                sessions: vec![SessionsView {
                    family: "ipv6",
                    open: 10,
                    max: 1000,
                    expired: 3,
                    table_bytes: 4096,
                }],
                cores: vec![CoreView {
                    core: 0,
                    handed: 3,
                    taken: 2,
                }],
                interfaces: vec![
                    InterfaceView {
                        name: "eth0".into(),
                        mode: Some("native"),
                    },
                    InterfaceView {
                        name: "eth1".into(),
                        mode: None,
                    },
                ],
                access_logs: vec![AccessLogView {
                    output: "access.log".into(),
                    written: 3,
                    dropped: 1,
                }],
                late_checks: 8,
                tls: TlsView {
                    certificates: vec![CertificateView {
                        listener: "web".into(),
                        file: "web.pem".into(),
                        not_after_s: 1_935_878_400,
                    }],
                    pool_certificates: vec![PoolCertificateView {
                        pool: "web".into(),
                        file: "client.pem".into(),
                        not_after_s: 1_935_878_401,
                    }],
                    renewed: 2,
                    refused: 1,
                },
                process: Some(ProcessView {
                    cpu: Duration::from_millis(1500),
                    resident_bytes: 4096,
                    open_fds: 12,
                    max_fds: 1024,
                }),
            }
        }

        fn listeners(&self) -> Vec<ListenerView> {
            vec![ListenerView {
                name: "web".into(),
                bind: address("203.0.113.10:443"),
                protocol: "https",
                forward: "proxy",
                pool: Some("web".into()),
                routes: vec![RouteView {
                    name: None,
                    hosts: vec!["*.example.com".into()],
                    path: None,
                    path_prefix: Some("/v1/".into()),
                    path_regex: None,
                    conditions: Vec::new(),
                    action: "pool",
                    pool: Some("api".into()),
                    split: Vec::new(),
                    status: None,
                    requests: 8,
                }],
                latency: Some(latency()),
                traffic: Traffic {
                    answers: Some([0, 6, 1, 1, 1]),
                    handshakes: Some(5),
                    handshakes_failed: Some(6),
                    ..traffic()
                },
            }]
        }

        fn pools(&self) -> Vec<PoolView> {
            vec![PoolView {
                pending: 0,
                requests: 9,
                retries: 4,
                answers: [0, 6, 0, 0, 3],
                latency: latency(),
                name: "web".into(),
                scheduler: "round_robin",
                check: Some(CheckView {
                    r#type: "http",
                    path: Some("/healthz".into()),
                    interval: Duration::from_secs(2),
                    timeout: Duration::from_millis(500),
                    rise: 2,
                    fall: 3,
                }),
                sticky_cookie: Some("sid".into()),
                sticky_mode: Some("learn"),
                sticky_sessions: Some(StickySessionsView {
                    open: 17,
                    forgotten: 1,
                }),
                backends: 2,
                available: 1,
            }]
        }

        fn backends(&self) -> Vec<BackendView> {
            let up = BackendView {
                ejected: true,
                ejections: 2,
                pool: "web".into(),
                address: address("10.0.0.1:80"),
                weight: 10,
                health: HealthView::Up,
                draining: true,
                overridden: Some(DRAINING),
                available: true,
                checks: Some(ChecksView {
                    since: instant(),
                    reason: "check passed".into(),
                    passed: 20,
                    failed: 2,
                    inconclusive: 1,
                    last_duration: Some(Duration::from_micros(1250)),
                    last_failure: None,
                }),
                traffic: Traffic {
                    idle: Some(1),
                    reused: Some(20),
                    requests_open: Some(3),
                    retries: Some(4),
                    ..traffic()
                },
            };
            let other = BackendView {
                ejected: false,
                ejections: 0,
                overridden: None,
                pool: "api".into(),
                address: address("[2001:db8::1]:80"),
                health: HealthView::Unknown,
                checks: None,
                traffic: Traffic::default(),
                ..up.clone()
            };
            vec![up, other]
        }

        fn overrides(&self) -> Vec<OverrideView> {
            vec![OverrideView {
                pool: "web".into(),
                address: address("10.0.0.1:80"),
                set: DRAINING,
            }]
        }

        fn sessions(&self, filter: &SessionFilter) -> Result<SessionPage, String> {
            self.asked.lock().unwrap().push(filter.clone());
            match &filter.state {
                Some(state) if state != "established" => Err(format!("state: `{state}`")),
                _ => Ok(SessionPage {
                    total: Some(1234),
                    items: Vec::new(),
                    next: Some("4-7-64".into()),
                }),
            }
        }
    }

    async fn call(view: Sample, access: Access, request: Request) -> (StatusCode, Response) {
        let response = router(Arc::new(view), access, Desk::new().0)
            .oneshot(request)
            .await
            .unwrap();
        (response.status(), response)
    }

    fn request(method: &str, path: &str) -> Request {
        Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap()
    }

    async fn text(response: Response) -> String {
        String::from_utf8(
            to_bytes(response.into_body(), 1 << 20)
                .await
                .unwrap()
                .to_vec(),
        )
        .unwrap()
    }

    async fn get_text(path: &str) -> (StatusCode, String) {
        let (status, response) =
            call(Sample::default(), Access::new(None), request("GET", path)).await;
        (status, text(response).await)
    }

    async fn get_json(path: &str) -> (StatusCode, Value) {
        let (status, text) = get_text(path).await;
        (status, serde_json::from_str(&text).unwrap())
    }

    #[tokio::test]
    async fn healthz_tells_whether_new_work_is_taken() {
        assert_eq!(get_text("/healthz").await, (StatusCode::OK, "ok\n".into()));
        let view = Sample {
            draining: true,
            ..Sample::default()
        };
        let (status, response) = call(view, Access::new(None), request("GET", "/healthz")).await;
        assert_eq!(
            (status, text(response).await),
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into())
        );
    }

    #[tokio::test]
    async fn lists_are_pages() {
        let (status, listeners) = get_json("/api/v1/listeners").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(listeners["total"], 1);
        let web = &listeners["items"][0];
        assert_eq!(web["bind"], "203.0.113.10:443");
        assert_eq!(web["routes"][0]["hosts"][0], "*.example.com");
        assert_eq!(web["traffic"]["answers"][1], 6);
        let (_, pools) = get_json("/api/v1/pools").await;
        assert_eq!(pools["items"][0]["check"]["timeout_ms"], 500.0);
        assert_eq!(pools["items"][0]["available"], 1);
        let (_, backends) = get_json("/api/v1/backends").await;
        assert_eq!(backends["total"], 2);
        assert_eq!(
            backends["items"][0]["checks"]["since"],
            "2001-09-09T01:46:40Z"
        );
        assert_eq!(backends["items"][0]["checks"]["last_duration_ms"], 1.25);
        assert_eq!(backends["items"][1]["health"], "unknown");
        let (_, one) = get_json("/api/v1/backends?pool=api").await;
        assert_eq!(
            (&one["total"], &one["items"][0]["address"]),
            (&1.into(), &"[2001:db8::1]:80".into())
        );
    }

    #[tokio::test]
    async fn session_query_becomes_a_filter() {
        let view = Arc::new(Sample::default());
        let app = router(
            Arc::clone(&view) as Arc<dyn View>,
            Access::new(None),
            Desk::new().0,
        );
        for path in [
            "/api/v1/sessions",
            "/api/v1/sessions?listener=web&client=198.51.100.7&backend=%5B2001:db8::1%5D:80&limit=3&pool=p&local=192.0.2.0/24&\
             protocol=tcp&forward=nat&state=established&cursor=4-7-64",
        ] {
            let response = app.clone().oneshot(request("GET", path)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let page: Value = serde_json::from_str(&text(response).await).unwrap();
            assert_eq!(
                (&page["total"], &page["next"]),
                (&1234.into(), &"4-7-64".into())
            );
        }
        let all = SessionFilter {
            limit: 100,
            ..SessionFilter::default()
        };
        let some = SessionFilter {
            listener: Some("web".into()),
            client: Some("198.51.100.7".parse().unwrap()),
            backend: Some("[2001:db8::1]:80".parse().unwrap()),
            limit: 3,
            pool: Some("p".into()),
            local: Some("192.0.2.0/24".parse().unwrap()),
            protocol: Some("tcp".into()),
            forward: Some("nat".into()),
            state: Some("established".into()),
            cursor: Some("4-7-64".into()),
        };
        assert_eq!(*view.asked.lock().unwrap(), [all, some]);
    }

    #[tokio::test]
    async fn errors_are_json() {
        let check = async |method: &str, path: &str, status: u16, message: &str| {
            let (got, response) =
                call(Sample::default(), Access::new(None), request(method, path)).await;
            assert_eq!(got.as_u16(), status, "{method} {path}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
            if status == 405 {
                assert_eq!(response.headers()[header::ALLOW], "GET,HEAD");
            }
            let body: Value = serde_json::from_str(&text(response).await).unwrap();
            assert_eq!(body["error"]["status"], status);
            let got = body["error"]["message"].as_str().unwrap();
            assert!(got.contains(message), "{got}");
        };
        check("GET", "/nothing", 404, "nothing at /nothing").await;
        check(
            "GET",
            "/api/v1/listeners/",
            404,
            "nothing at /api/v1/listeners/",
        )
        .await;
        check("POST", "/api/v1/listeners", 405, "POST is not allowed here").await;
        check("DELETE", "/healthz", 405, "DELETE is not allowed here").await;
        check("GET", "/api/v1/sessions?limit=x", 400, "limit").await;
        check(
            "GET",
            "/api/v1/sessions?limit=10001",
            400,
            "limit: 10001 is above 10000",
        )
        .await;
        check(
            "GET",
            "/api/v1/sessions?client=web",
            400,
            "client: `web` is neither an IP address",
        )
        .await;
        check(
            "GET",
            "/api/v1/sessions?local=192.0.2.7/24",
            400,
            "local: `192.0.2.7/24` goes beyond its prefix",
        )
        .await;
        check("GET", "/api/v1/sessions?state=x", 400, "state: `x`").await;
        check(
            "GET",
            "/api/v1/sessions?lisener=web",
            400,
            "unknown field `lisener`",
        )
        .await;
        check(
            "GET",
            "/api/v1/backends?name=web",
            400,
            "unknown field `name`",
        )
        .await;
    }

    #[tokio::test]
    async fn orders_are_handed_in_and_answered() {
        let (desk, mut orders) = Desk::new();
        let app = router(Arc::new(Sample::default()), Access::new(None), desk);
        tokio::spawn(async move {
            while let Some(Ask { order, reply }) = orders.recv().await {
                let answer = match order {
                    Order::Set(backend, _) if backend.pool == "none" => {
                        Err(OrderError::NoBackend(backend.to_string()))
                    }
                    Order::Set(_, change) => Ok(change),
                    Order::Clear(_) => Ok(Override::default()),
                };
                reply.send(answer).unwrap();
            }
        });
        let check =
            async |method: &str, path: &str, host: &str, body: &str, status: u16, text_: &str| {
                let mut request = request(method, &format!("/api/v1/overrides/{path}"));
                request
                    .headers_mut()
                    .insert(header::HOST, host.parse().unwrap());
                let json = HeaderValue::from_static("application/json");
                request.headers_mut().insert(header::CONTENT_TYPE, json);
                *request.body_mut() = Body::from(body.to_owned());
                let response = app.clone().oneshot(request).await.unwrap();
                let got = response.status();
                let answer = text(response).await;
                assert_eq!(got.as_u16(), status, "{method} {path} {body}: {answer}");
                assert!(answer.contains(text_), "{answer}");
            };
        let web = "web/10.0.0.1:80";
        let draining = r#"{"state":"draining"}"#;
        check("PATCH", web, "127.0.0.1:9900", draining, 200, draining).await;
        check(
            "PATCH",
            "web/%5B::1%5D:80",
            "[::1]:9900",
            r#"{"weight":0}"#,
            200,
            r#"{"weight":0}"#,
        )
        .await;
        check("DELETE", web, "localhost:9900", "", 200, "{}").await;
        check(
            "PATCH",
            web,
            "evil.example:9900",
            draining,
            403,
            "without a token",
        )
        .await;
        check("DELETE", web, "evil.example", "", 403, "without a token").await;
        check(
            "PATCH",
            "none/10.0.0.1:80",
            "127.0.0.1",
            draining,
            404,
            "no backend none/10.0.0.1:80",
        )
        .await;
        check(
            "PATCH",
            "web/x",
            "127.0.0.1",
            draining,
            400,
            "not an address",
        )
        .await;
        check(
            "PATCH",
            web,
            "127.0.0.1",
            "{}",
            400,
            "expected `state` or `weight`",
        )
        .await;
        check(
            "PATCH",
            web,
            "127.0.0.1",
            r#"{"weight":1001}"#,
            400,
            "0 to 1000",
        )
        .await;
        check(
            "PATCH",
            web,
            "127.0.0.1",
            r#"{"state":"gone"}"#,
            400,
            "unknown variant",
        )
        .await;
        check(
            "PATCH",
            web,
            "127.0.0.1",
            r#"{"wait":1}"#,
            400,
            "unknown field",
        )
        .await;
        check("PUT", web, "127.0.0.1", draining, 405, "PUT is not allowed").await;
    }

    #[tokio::test]
    async fn everything_but_healthz_needs_the_token() {
        let folder = std::env::temp_dir().join(format!("weir-router-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), "0123456789abcdef\n").unwrap();
        let access = Access::new(Some(Token::read(&folder.join("token")).unwrap()));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!Path::new(&folder).exists());
        let status = async |path: &str, authorization: Option<&str>| {
            let mut request = request("GET", path);
            if let Some(value) = authorization {
                request
                    .headers_mut()
                    .insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            let (status, response) = call(Sample::default(), access.clone(), request).await;
            if status == StatusCode::UNAUTHORIZED {
                assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
                let body: Value = serde_json::from_str(&text(response).await).unwrap();
                assert_eq!(body["error"]["status"], 401);
            }
            status.as_u16()
        };
        assert_eq!(status("/healthz", None).await, 200);
        for path in [
            "/metrics",
            "/api/v1/listeners",
            "/api/v1/sessions",
            "/api/v1/openapi.json",
        ] {
            assert_eq!(status(path, None).await, 401, "{path}");
            assert_eq!(
                status(path, Some("Bearer 0123456789abcdeX")).await,
                401,
                "{path}"
            );
            assert_eq!(
                status(path, Some("Bearer 0123456789abcdef")).await,
                200,
                "{path}"
            );
        }
        // Who has no token does not learn what exists.
        assert_eq!(status("/nothing", None).await, 401);
        assert_eq!(
            status("/nothing", Some("Bearer 0123456789abcdef")).await,
            404
        );
    }

    #[tokio::test]
    async fn description_names_every_path_and_schema() {
        let (_, description) = get_json("/api/v1/openapi.json").await;
        assert!(description["openapi"].as_str().unwrap().starts_with("3."));
        for path in [
            "/healthz",
            "/metrics",
            "/api/v1/listeners",
            "/api/v1/pools",
            "/api/v1/backends",
            "/api/v1/sessions",
            "/api/v1/overrides",
        ] {
            assert!(description["paths"][path]["get"].is_object(), "{path}");
        }
        let schemas = &description["components"]["schemas"];
        for schema in [
            "ErrorBody",
            "ListenerView",
            "BackendView",
            "SessionView",
            "Traffic",
            "HealthView",
        ] {
            assert!(schemas[schema].is_object(), "{schema}: {schemas}");
        }
        let names: Vec<&str> = description["paths"]["/api/v1/sessions"]["get"]["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "listener", "pool", "client", "local", "backend", "protocol", "forward", "state",
                "limit", "cursor"
            ]
        );
    }

    #[tokio::test]
    async fn metrics_show_what_the_view_shows() {
        let (status, metrics) = get_text("/metrics").await;
        assert_eq!(status, StatusCode::OK);
        for line in [
            r#"weir_build_info{version="0.1.0",node="lb-1"} 1"#,
            "weir_start_time_seconds 1000000000.0",
            "weir_draining 0",
            "weir_config_generation 5",
            r#"weir_config_reloads_total{result="failed"} 1"#,
            "weir_config_last_reload_success 0",
            r#"weir_drops_total{reason="not_tcp_syn"} 4"#,
            "weir_sessions{family=\"ipv6\"} 10",
            "weir_sessions_expired_total{family=\"ipv6\"} 3",
            "weir_health_checks_late_total 8",
            r#"weir_interface_attached{interface="eth0",mode="native"} 1"#,
            r#"weir_interface_attached{interface="eth1",mode="none"} 0"#,
            r#"weir_listener_info{listener="web",bind="203.0.113.10:443",protocol="https",forward="proxy"} 1"#,
            r#"weir_listener_connections_total{listener="web"} 7"#,
            r#"weir_listener_connections_open{listener="web"} 2"#,
            r#"weir_listener_transferred_bytes_total{listener="web",direction="out"} 2000"#,
            r#"weir_listener_packets_total{listener="web",direction="in"} 11"#,
            r#"weir_listener_requests_total{listener="web"} 9"#,
            r#"weir_listener_answers_total{listener="web",class="2xx"} 6"#,
            r#"weir_listener_tls_handshakes_total{listener="web",result="failed"} 6"#,
            r#"weir_backend_connections_reused_total{pool="web",backend="10.0.0.1:80"} 20"#,
            r#"weir_listener_drops_total{listener="web",reason="no_backend"} 3"#,
            r#"weir_pool_backends_available{pool="web"} 1"#,
            r#"weir_listener_request_duration_seconds_bucket{le="0.000125",listener="web"} 5"#,
            r#"weir_listener_request_duration_seconds_bucket{le="0.00025",listener="web"} 8"#,
            r#"weir_listener_request_duration_seconds_bucket{le="+Inf",listener="web"} 9"#,
            r#"weir_listener_request_duration_seconds_sum{listener="web"} 2.5"#,
            r#"weir_listener_request_duration_seconds_count{listener="web"} 9"#,
            r##"weir_route_requests_total{listener="web",route="#1"} 8"##,
            r#"weir_pool_requests_total{pool="web"} 9"#,
            r#"weir_pool_retries_total{pool="web"} 4"#,
            r#"weir_pool_answers_total{pool="web",class="5xx"} 3"#,
            r#"weir_pool_request_duration_seconds_bucket{le="0.00025",pool="web"} 8"#,
            r#"weir_tls_client_certificate_expiry_seconds{pool="web",file="client.pem"} 1935878401"#,
            "weir_metrics_series_left_out 0",
            r#"weir_pool_sticky_sessions{pool="web"} 17"#,
            r#"weir_pool_sticky_forgotten_total{pool="web"} 1"#,
            r#"weir_backend_health{pool="web",backend="10.0.0.1:80",state="up"} 1"#,
            r#"weir_backend_health{pool="api",backend="[2001:db8::1]:80",state="unknown"} 1"#,
            r#"weir_backend_checks_total{pool="web",backend="10.0.0.1:80",result="inconclusive"} 1"#,
            r#"weir_backend_overridden{pool="web",backend="10.0.0.1:80"} 1"#,
            r#"weir_backend_check_duration_seconds{pool="web",backend="10.0.0.1:80"} 0.00125"#,
            r#"weir_backend_retries_total{pool="web",backend="10.0.0.1:80"} 4"#,
            "process_cpu_seconds_total 1.5",
            "process_open_fds 12",
        ] {
            assert!(
                metrics.lines().any(|have| have == line),
                "{line} is missing in\n{metrics}"
            );
        }
        assert!(metrics.ends_with("# EOF\n"));
        // Of backends, what is 0 is left out, but for what is a state and no count.
        let of_backends = metrics
            .lines()
            .filter(|line| line.starts_with("weir_backend_"));
        for line in of_backends.filter(|line| line.ends_with(" 0")) {
            assert!(
                line.starts_with("weir_backend_available")
                    || line.starts_with("weir_backend_weight"),
                "{line}"
            );
        }
        assert!(
            !metrics.contains(r#"weir_backend_checks_total{pool="api""#),
            "not checked, not shown"
        );
    }

    #[test]
    fn a_scrape_has_no_more_series_than_it_may_and_says_how_many_it_lacks() {
        let scrape = |most| {
            let view: Arc<dyn View> = Arc::new(Sample::default());
            Metrics::bounded(view, most).encode().unwrap()
        };
        let series = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.count() as u64 - 1
        };
        let all = series(&scrape(u64::MAX));
        for most in [0, 1, all / 2, all - 1, all] {
            let text = scrape(most);
            let left_out = text
                .lines()
                .find_map(|line| line.strip_prefix("weir_metrics_series_left_out "))
                .unwrap();
            let left_out: u64 = left_out.parse().unwrap();
            assert!(series(&text) <= most);
            assert_eq!(series(&text) + left_out, all);
            assert!(text.ends_with("# EOF\n"));
        }
        // Those of backends go first.
        let text = scrape(all - 1);
        assert!(text.contains("weir_pool_request_duration_seconds_count"));
        assert!(!text.contains(r#"weir_backend_drops_total{pool="web""#));
    }

    /// The documentation and the encoder name the same families.
    #[tokio::test]
    async fn every_metric_is_documented() {
        let document = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/metrics.md"
        ))
        .unwrap();
        let (_, metrics) = get_text("/metrics").await;
        let families = metrics.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            Some(if kind == "counter" {
                format!("{name}_total")
            } else {
                name.to_owned()
            })
        });
        let mut shown: Vec<String> = families.collect();
        let documented = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let mut documented: Vec<String> = documented.map(|(name, _)| name.to_owned()).collect();
        shown.sort();
        documented.sort();
        assert_eq!(shown, documented);
    }
}
