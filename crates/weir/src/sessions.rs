//! Finds layer 4 sessions for the API: words become what the data plane knows.

use weir_api::view::{SessionFilter, SessionPage};
use weir_l4::{Cursor, Filter, Listing, State};
use weir_model::{Config, Forward, Name};

use crate::planes::Planes;
use crate::view;

/// How layer 4 forwards.
const FORWARDS: [Forward; 4] = [Forward::Fullnat, Forward::Nat, Forward::Dr, Forward::Tunnel];

/// Asks the data plane. The error says what is wrong with the question.
pub(crate) fn find(
    planes: &Planes,
    config: &Config,
    asked: &SessionFilter,
) -> Result<SessionPage, String> {
    let filter = filter(asked)?;
    let cursor = asked.cursor.as_deref().map(str::parse::<Cursor>);
    let cursor = cursor.transpose().map_err(|error| stale(asked, error))?;
    let listing = planes.with_l4(|plane| plane.list(&filter, cursor, asked.limit));
    let listing = listing
        .unwrap_or_else(|| {
            Ok(Listing {
                total: Some(0),
                ..Listing::default()
            })
        })
        .map_err(|error| stale(asked, error))?;
    if listing.total == Some(0) {
        // Names that have left the config may have sessions still; where there are none, the name may be a slip.
        are_known(config, &filter)?;
    }
    Ok(SessionPage {
        total: listing.total,
        items: listing.sessions.iter().map(view::session).collect(),
        next: listing.next.map(|cursor| cursor.to_string()),
    })
}

fn stale(asked: &SessionFilter, error: weir_l4::CursorError) -> String {
    let cursor = asked.cursor.as_deref().unwrap_or_default();
    format!("cursor: `{cursor}`: {error}")
}

fn are_known(config: &Config, filter: &Filter) -> Result<(), String> {
    if let Some(name) = &filter.listener {
        match config.listener(name) {
            None => return Err(format!("listener: there is no listener `{name}`")),
            Some(listener) if !listener.forward.is_xdp() => {
                return Err(format!(
                    "listener: `{name}` is proxied, and has connections in place of sessions"
                ));
            }
            Some(_) => {}
        }
    }
    match &filter.pool {
        Some(name) if config.pool(name).is_none() => {
            Err(format!("pool: there is no pool `{name}`"))
        }
        _ => Ok(()),
    }
}

fn filter(asked: &SessionFilter) -> Result<Filter, String> {
    let protocols = [("tcp", false), ("udp", true)];
    let forwards = FORWARDS.map(|forward| (forward.as_str(), forward));
    let states = State::ALL.map(|state| (state.as_str(), state));
    Ok(Filter {
        udp: word("protocol", asked.protocol.as_deref(), &protocols)?,
        forward: word("forward", asked.forward.as_deref(), &forwards)?,
        state: word("state", asked.state.as_deref(), &states)?,
        client: asked.client,
        vip: None,
        local: asked.local,
        listener: name("listener", asked.listener.as_deref())?,
        pool: name("pool", asked.pool.as_deref())?,
        backend: asked.backend,
    })
}

/// What a word stands for; the error names all words.
fn word<T: Copy>(
    parameter: &str,
    written: Option<&str>,
    words: &[(&str, T)],
) -> Result<Option<T>, String> {
    let Some(written) = written else {
        return Ok(None);
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == written) {
        return Ok(Some(*value));
    }
    let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    Err(format!(
        "{parameter}: `{written}` is none of {}",
        all.join(", ")
    ))
}

fn name(parameter: &str, written: Option<&str>) -> Result<Option<Name>, String> {
    written
        .map(Name::parse)
        .transpose()
        .map_err(|error| format!("{parameter}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn asked() -> SessionFilter {
        SessionFilter {
            limit: 1,
            ..SessionFilter::default()
        }
    }

    #[test]
    fn words_become_what_the_data_plane_knows() {
        let filter = filter(&SessionFilter {
            listener: Some("web".into()),
            pool: Some("p".into()),
            client: Some("198.51.100.0/24".parse().unwrap()),
            local: Some("192.0.2.1:7".parse().unwrap()),
            backend: Some("10.0.0.1".parse().unwrap()),
            protocol: Some("udp".into()),
            forward: Some("dr".into()),
            state: Some("udp_stream".into()),
            ..asked()
        });
        let expected = Filter {
            udp: Some(true),
            forward: Some(Forward::Dr),
            client: Some("198.51.100.0/24".parse().unwrap()),
            vip: None,
            local: Some("192.0.2.1:7".parse().unwrap()),
            listener: Some(Name::new("web")),
            pool: Some(Name::new("p")),
            backend: Some("10.0.0.1".parse().unwrap()),
            state: Some(State::UdpStream),
        };
        assert_eq!(filter, Ok(expected));
        assert_eq!(super::filter(&asked()), Ok(Filter::default()));
    }

    #[test]
    fn a_wrong_word_is_told_with_the_right_ones() {
        let check = |wrong: SessionFilter, expected: &str| {
            let error = filter(&wrong).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        let wrong = || Some("tpc".to_owned());
        check(
            SessionFilter {
                protocol: wrong(),
                ..asked()
            },
            "protocol: `tpc` is none of tcp, udp",
        );
        check(
            SessionFilter {
                forward: Some("proxy".into()),
                ..asked()
            },
            "forward: `proxy` is none of fullnat, nat, dr, tunnel",
        );
        check(
            SessionFilter {
                state: wrong(),
                ..asked()
            },
            "state: `tpc` is none of syn_sent, syn_recv, established",
        );
        check(
            SessionFilter {
                listener: Some("a b".into()),
                ..asked()
            },
            "listener: ",
        );
    }

    #[test]
    fn names_that_nobody_has_are_told() {
        let config = r#"
            [l4]
            interfaces = ["eth0"]
            [[listener]]
            name = "dr"
            bind = "203.0.113.10:80"
            protocol = "tcp"
            forward = "dr"
            pool = "a"
            [[listener]]
            name = "proxied"
            bind = "127.0.0.1:80"
            protocol = "tcp"
            pool = "a"
            [[pool]]
            name = "a"
            backend = [{ address = "10.0.0.1:80" }]
        "#;
        let config = Config::parse(config, Path::new("weir.toml"))
            .unwrap_or_else(|errors| panic!("{errors}"));
        let check = |listener: Option<&str>, pool: Option<&str>, expected: Result<(), &str>| {
            let filter = Filter {
                listener: listener.map(Name::new),
                pool: pool.map(Name::new),
                ..Filter::default()
            };
            let known = are_known(&config, &filter);
            match expected {
                Ok(()) => assert_eq!(known, Ok(())),
                Err(text) => assert!(known.clone().unwrap_err().contains(text), "{known:?}"),
            }
        };
        check(Some("dr"), Some("a"), Ok(()));
        check(Some("b"), None, Err("no listener `b`"));
        check(Some("proxied"), None, Err("`proxied` is proxied"));
        check(None, Some("b"), Err("no pool `b`"));
    }
}
