//! The networks themselves, without weir.

use std::process::Command;
use std::time::Duration;

use weir_lab::network::{ROUTER, VIP};
use weir_lab::{Network, TcpEcho, eventually, ready};

use crate::client::{Echo, noise};

#[test]
fn clients_reach_backends_that_know_the_way_back() {
    if !ready("clients_reach_backends_that_know_the_way_back", &["ping"]) {
        return;
    }
    for network in [Network::one_arm(1), Network::two_arm(1)] {
        let [host] = network.backends.as_slice() else {
            panic!("one backend")
        };
        let echo = TcpEcho::start(&host.namespace, "b1", host.at(7));
        host.route_through(ROUTER);
        let connect = || Echo::connect(&network.client, host.at(7));
        let mut connection = eventually("a connection", Duration::from_secs(5), connect);
        connection.say(&noise(1_000_000)).unwrap();
        assert_eq!((connection.name.as_str(), echo.accepted()), ("b1", 1));

        let ping = |to: String| {
            network
                .client
                .output(Command::new("ping").args(["-c1", "-W5", &to]))
                .unwrap()
        };
        assert!(ping(VIP.to_string()).status.success());
        assert!(!ping("203.0.113.99".to_owned()).status.success());
    }
}
