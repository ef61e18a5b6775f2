//! nginx as a backend.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use crate::folder::Folder;
use crate::http;
use crate::network::Host;
use crate::patience::eventually;
use crate::process::Process;
use crate::requirements::find;

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running nginx that answers every path with its name, `/files/` with files of a folder, and `/seen` with what it
/// saw of the request. Killed on drop.
pub struct Nginx {
    process: Process,
    // Removed after the process is gone.
    _folder: Folder,
}

impl Nginx {
    /// Starts nginx on a host's ports.
    ///
    /// # Panics
    /// Where it does not answer within ten seconds.
    pub fn start(host: &Host, name: &str, ports: &[u16], files: Option<&Folder>) -> Self {
        let folder = Folder::new();
        // It gives up root for its own user, who must get in.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("open the folder");
        let listen: String = ports
            .iter()
            .map(|port| format!("listen {port} backlog=16384;\nlisten [::]:{port} ipv6only=on;\n"))
            .collect();
        let files =
            files.map(|files| format!("location /files/ {{ alias {}/; }}", files.path().display()));
        let config = format!(
            "daemon off;
            master_process off;
            user root;
            pid nginx.pid;
            error_log stderr;
            events {{ worker_connections 16384; }}
            http {{
              access_log off;
              default_type text/plain;
              keepalive_requests 1000000;
              client_max_body_size 0;
              client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
              uwsgi_temp_path uwsgi; scgi_temp_path scgi;
              server {{
                {listen}
                location / {{ return 200 \"{name}\\n\"; }}
                location /seen {{
                  return 200 \"{name} $remote_addr $http_host $http_x_forwarded_for $http_x_forwarded_proto\\n\";
                }}
                {}
              }}
            }}",
            files.unwrap_or_default()
        );
        let path = folder.write("nginx.conf", config);
        let program = find("nginx").expect("the scenario asked for nginx");
        let mut command = Command::new(program);
        // `-e`: before the configuration is read, too.
        command
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(path);
        let process = Process::start(name, &host.namespace, &folder, &mut command);
        for port in ports {
            let ask = || host.namespace.run(|| http::get(host.at(*port), name, "/"));
            eventually(&format!("nginx {name} on port {port}"), START_TIMEOUT, ask);
        }
        Self {
            process,
            _folder: folder,
        }
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
