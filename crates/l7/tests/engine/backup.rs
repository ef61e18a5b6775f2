//! The pool behind a pool, and shares that grow.

use std::collections::HashMap;

use weir_model::{BackendId, BackendState, Health, Share};

use crate::harness::*;

fn id(pool: &str, origin: &Origin) -> BackendId {
    BackendId {
        pool: pool.into(),
        address: origin.address,
    }
}

#[test]
fn a_backup_pool_answers_while_the_first_is_down() {
    let (first, spare) = (Origin::saying("first"), Origin::saying("spare"));
    let config = format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n\
         [[pool]]\nname = \"main\"\nbackup_pool = \"spare\"\nbackend = [{{ address = \"{}\" }}]\n\
         [[pool]]\nname = \"spare\"\nbackend = [{{ address = \"{}\" }}]\n",
        first.address, spare.address
    );
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let mut ask = |first_is_down: bool, spare_is_down: bool| {
        let mut snapshot = proxy.snapshot(&config);
        for (id, down) in [
            (id("main", &first), first_is_down),
            (id("spare", &spare), spare_is_down),
        ] {
            let health = if down { Health::Down } else { Health::Up };
            let state = BackendState {
                health,
                ..BackendState::default()
            };
            snapshot.backends.insert(id, state);
        }
        proxy.apply_snapshot(snapshot);
        let answer = client.get("/").unwrap();
        (answer.status, answer.text().to_owned())
    };
    assert_eq!(ask(false, false), (200, "first".to_owned()));
    assert_eq!(ask(true, false), (200, "spare".to_owned()));
    assert_eq!(ask(true, true).0, 503);
    assert_eq!(ask(false, true), (200, "first".to_owned()));
}

#[test]
fn a_backend_that_starts_slowly_gets_its_share() {
    let (old, new) = (Origin::saying("old"), Origin::saying("new"));
    let config = format!(
        "[[listener]]\nname = \"main\"\nbind = \"LISTEN\"\nprotocol = \"http\"\npool = \"main\"\n\
         [[pool]]\nname = \"main\"\nbackend = [{{ address = \"{}\" }}, {{ address = \"{}\" }}]\n",
        old.address, new.address
    );
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    let mut counts = |percent: u8| {
        let mut snapshot = proxy.snapshot(&config);
        let state = BackendState {
            share: Share::percent(percent),
            ..BackendState::default()
        };
        snapshot.backends.insert(id("main", &new), state);
        proxy.apply_snapshot(snapshot);
        let mut counts: HashMap<String, usize> = HashMap::new();
        for _ in 0..50 {
            let answer = client.get("/").unwrap();
            *counts.entry(answer.text().to_owned()).or_default() += 1;
        }
        counts.get("new").copied().unwrap_or(0)
    };
    // The turn in which the count begins is not fixed.
    assert!((9..=11).contains(&counts(25)));
    assert!((24..=26).contains(&counts(100)));
}
