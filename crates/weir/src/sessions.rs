//! Finds layer 4 sessions for the API, whose filters are a little wider than the data plane's.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use weir_api::view::SessionFilter;
use weir_l4::{Filter, Session};
use weir_model::{Config, Name};

use crate::planes::Planes;

/// Sessions of one client address that are looked at for its port.
const SESSIONS_OF_CLIENT: usize = 100_000;

/// Sessions that fit a filter: at most as many as it allows, and how many there are in all.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) total: u64,
    pub(crate) items: Vec<Session>,
}

/// Asks the data plane.
pub(crate) fn find(planes: &Planes, config: &Config, filter: &SessionFilter) -> Found {
    let mut found = Found::default();
    planes.with_l4(|plane| {
        for asked in questions(config, filter) {
            let left = filter.limit.saturating_sub(found.items.len());
            match filter.client.and_then(|client| client.port) {
                // The data plane knows clients by address only.
                Some(port) => {
                    let mut sessions = plane.sessions(&asked, SESSIONS_OF_CLIENT);
                    sessions.retain(|session| session.client.port() == port);
                    found.total += sessions.len() as u64;
                    sessions.truncate(left);
                    found.items.append(&mut sessions);
                }
                None => {
                    found.total += plane.session_count(&asked);
                    found.items.append(&mut plane.sessions(&asked, left));
                }
            }
        }
    });
    found
}

/// The data plane knows backends by address and port: an address alone becomes a question for each of its ports.
fn questions(config: &Config, filter: &SessionFilter) -> Vec<Filter> {
    let asked = Filter {
        listener: filter.listener.as_deref().map(Name::new),
        client: filter.client.map(|client| client.ip),
        ..Filter::default()
    };
    let Some(wanted) = filter.backend else {
        return vec![asked];
    };
    let fitting: BTreeSet<SocketAddr> = config
        .backends()
        .map(|(id, ..)| id.address)
        .filter(|address| wanted.matches(*address))
        .collect();
    fitting
        .into_iter()
        .map(|backend| Filter {
            backend: Some(backend),
            ..asked.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn backend_address_becomes_one_question_for_each_port() {
        let config = r#"
            [[listener]]
            name = "a"
            bind = "127.0.0.1:80"
            protocol = "tcp"
            pool = "a"
            [[pool]]
            name = "a"
            backend = [{ address = "10.0.0.1:80" }, { address = "10.0.0.1:81" }, { address = "10.0.0.2:80" }]
        "#;
        let config = Config::parse(config, Path::new("weir.toml"))
            .unwrap_or_else(|errors| panic!("{errors}"));
        let check = |backend: Option<&str>, expected: &[Option<&str>]| {
            let backend = backend.map(|text| text.parse().unwrap());
            let filter = SessionFilter {
                listener: Some("a".into()),
                client: None,
                backend,
                limit: 1,
            };
            let asked = questions(&config, &filter);
            assert!(
                asked
                    .iter()
                    .all(|filter| filter.listener == Some(Name::new("a")))
            );
            let backends: Vec<_> = asked.iter().map(|filter| filter.backend).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|text| text.map(|text| text.parse().unwrap()))
                .collect();
            assert_eq!(backends, expected);
        };
        check(None, &[None]);
        check(
            Some("10.0.0.1"),
            &[Some("10.0.0.1:80"), Some("10.0.0.1:81")],
        );
        check(Some("10.0.0.1:81"), &[Some("10.0.0.1:81")]);
        check(Some("10.0.0.3"), &[]);
    }
}
