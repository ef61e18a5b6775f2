//! Paths that take the place of those in a request, and where a redirect leads.

use std::net::SocketAddr;

use regex_automata::Input;
use regex_automata::meta::Regex;
use weir_model::path::canonical;
use weir_model::{Action, Group, Part, PathMatch, PathRewrite, Redirect, Route, Scheme, Template};

use super::request::path_and_query;

/// The expression of a route's rewrite or redirect, with its groups.
pub(super) fn groups_of(route: &Route) -> Option<Regex> {
    let rewrite = match &route.action {
        Action::Redirect(redirect) => &redirect.path,
        _ => &route.rewrite.path,
    };
    match rewrite {
        // It was compiled when the config was read.
        PathRewrite::Regex(pattern, _) => pattern.with_groups().ok(),
        _ => None,
    }
}

/// Writes the path that a rewrite makes of the target's.
pub(super) fn write_path(
    rewrite: &PathRewrite,
    groups: Option<&Regex>,
    matched: &PathMatch,
    target: &[u8],
    out: &mut Vec<u8>,
) {
    let (path, _) = path_and_query(target);
    // As it was compared.
    let path = &*canonical(path);
    // `*` is the server as a whole, and not below any path.
    if !path.starts_with(b"/") {
        out.extend_from_slice(path);
        return;
    }
    let start = out.len();
    match (rewrite, groups) {
        (PathRewrite::Keep, _) | (PathRewrite::Regex(..), None) => out.extend_from_slice(path),
        (PathRewrite::Full(full), _) => out.extend_from_slice(full.as_bytes()),
        (PathRewrite::Prefix(prefix), _) => {
            let replaced = match matched {
                PathMatch::Prefix(prefix) => prefix.len(),
                _ => 0,
            };
            out.extend_from_slice(prefix.as_bytes());
            out.extend_from_slice(path.get(replaced..).unwrap_or_default());
        }
        (PathRewrite::Regex(_, substitution), Some(groups)) => {
            substitute(groups, substitution, path, out);
        }
    }
    if out.get(start) != Some(&b'/') {
        out.insert(start, b'/');
    }
}

fn substitute(groups: &Regex, substitution: &Template<Group>, path: &[u8], out: &mut Vec<u8>) {
    let mut found = groups.create_captures();
    groups.search_captures(&Input::new(path), &mut found);
    if !found.is_match() {
        out.extend_from_slice(path);
        return;
    }
    for part in substitution.parts() {
        let group = match part {
            Part::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                continue;
            }
            Part::Variable(Group::Number(number)) => found.get_group(*number),
            Part::Variable(Group::Name(name)) => found.get_group_by_name(name),
        };
        if let Some(span) = group {
            out.extend_from_slice(&path[span.start..span.end]);
        }
    }
}

/// Writes the query of a target with its `?`, if it has one.
pub(super) fn write_query(target: &[u8], out: &mut Vec<u8>) {
    if let Some(at) = memchr::memchr(b'?', target) {
        out.extend_from_slice(&target[at..]);
    }
}

/// Writes where a redirect leads, as a whole URL. `local` is the address that the client has connected to; it serves
/// clients that name no host.
pub(super) fn write_location(
    redirect: &Redirect,
    own: Scheme,
    authority: &[u8],
    local: SocketAddr,
    path: impl FnOnce(&mut Vec<u8>),
    target: &[u8],
    out: &mut Vec<u8>,
) {
    let local = local.to_string();
    let authority = if authority.is_empty() {
        local.as_bytes()
    } else {
        authority
    };
    let colon =
        memchr::memrchr(b':', authority).filter(|colon| !authority[*colon..].contains(&b']'));
    let (host, port) = match colon {
        Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
        None => (authority, None),
    };
    let scheme = redirect.scheme.unwrap_or(own);
    out.extend_from_slice(scheme.as_str().as_bytes());
    out.extend_from_slice(b"://");
    out.extend_from_slice(redirect.host.as_ref().map_or(host, |host| host.as_bytes()));
    let default: &[u8] = match scheme {
        Scheme::Http => b"80",
        Scheme::Https => b"443",
    };
    let given = redirect.port.map(|port| port.to_string().into_bytes());
    let port = match &given {
        Some(port) => Some(port.as_slice()),
        // A port goes with its scheme.
        None => port.filter(|port| scheme == own && !port.is_empty()),
    };
    if let Some(port) = port.filter(|port| *port != default) {
        out.push(b':');
        out.extend_from_slice(port);
    }
    path(out);
    if redirect.keep_query {
        write_query(target, out);
    }
}

#[cfg(test)]
mod tests {
    use weir_model::Pattern;

    use super::*;

    #[test]
    fn paths_are_replaced_whole_by_prefix_or_by_expression() {
        let prefix = |prefix: &str| PathMatch::Prefix(prefix.to_owned());
        let check = |rewrite: &PathRewrite, matched: &PathMatch, target: &str, expected: &str| {
            let groups = match rewrite {
                PathRewrite::Regex(pattern, _) => Some(pattern.with_groups().unwrap()),
                _ => None,
            };
            let mut out = Vec::new();
            write_path(
                rewrite,
                groups.as_ref(),
                matched,
                target.as_bytes(),
                &mut out,
            );
            write_query(target.as_bytes(), &mut out);
            assert_eq!(
                String::from_utf8(out).unwrap(),
                expected,
                "{rewrite:?} {target}"
            );
        };
        let full = PathRewrite::Full("/new".to_owned());
        check(&full, &PathMatch::Any, "/a/b?q=1", "/new?q=1");
        check(&full, &PathMatch::Any, "*", "*");
        check(&full, &PathMatch::Any, "?q", "/new?q");
        let bar = PathRewrite::Prefix("/bar".to_owned());
        check(&bar, &prefix("/foo"), "/foo/x?y", "/bar/x?y");
        check(&bar, &prefix("/foo"), "/foo", "/bar");
        check(&bar, &PathMatch::Any, "/x", "/bar/x");
        let none = PathRewrite::Prefix(String::new());
        check(&none, &prefix("/foo"), "/foo/x", "/x");
        check(&none, &prefix("/foo"), "/foo", "/");
        check(&none, &prefix("/foo"), "/foo?y", "/?y");
        let substitution = |written: &str| {
            Template::parse(written, |name| {
                Some(match name.parse() {
                    Ok(number) => Group::Number(number),
                    Err(_) => Group::Name(name.to_owned()),
                })
            })
            .unwrap()
        };
        let regex = |source: &str, written: &str| {
            PathRewrite::Regex(Pattern::parse(source).unwrap(), substitution(written))
        };
        let users = regex("/users/([0-9]+)(/.*)?", "/u{2}/{1}");
        check(&users, &PathMatch::Any, "/users/7", "/u/7");
        check(&users, &PathMatch::Any, "/users/7/a/b?q", "/u/a/b/7?q");
        check(&users, &PathMatch::Any, "/other", "/other");
        let named = regex("/(?<lang>[a-z]{2})/(.*)", "{2}/{lang}");
        check(&named, &PathMatch::Any, "/de/a", "/a/de");
    }

    #[test]
    fn a_location_is_whole_and_changes_what_it_says() {
        let redirect = Redirect {
            status: 301,
            scheme: None,
            host: None,
            port: None,
            path: PathRewrite::Keep,
            keep_query: true,
        };
        let check = |redirect: &Redirect, own: Scheme, authority: &str, expected: &str| {
            let mut out = Vec::new();
            let target = b"/a?b";
            write_location(
                redirect,
                own,
                authority.as_bytes(),
                "[2001:db8::1]:8080".parse().unwrap(),
                |out| write_path(&redirect.path, None, &PathMatch::Any, target, out),
                target,
                &mut out,
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        let https = Redirect {
            scheme: Some(Scheme::Https),
            ..redirect.clone()
        };
        let own = Scheme::Http;
        check(&https, own, "a.example:8080", "https://a.example/a?b");
        check(&https, own, "[2001:db8::2]:80", "https://[2001:db8::2]/a?b");
        check(&https, own, "", "https://[2001:db8::1]/a?b");
        let port = Redirect {
            port: Some(8443),
            keep_query: false,
            ..https
        };
        check(&port, own, "a.example", "https://a.example:8443/a");
        let host = Redirect {
            host: Some("b.example".to_owned()),
            path: PathRewrite::Full("/new".to_owned()),
            ..redirect
        };
        check(&host, own, "a.example:8080", "http://b.example:8080/new?b");
        check(&host, own, "a.example:", "http://b.example/new?b");
        check(
            &host,
            Scheme::Https,
            "a.example:443",
            "https://b.example/new?b",
        );
    }
}
