//! What HAProxy and nginx are configured to do: as a person would who wants them fast, and nothing else.

use std::net::SocketAddrV4;
use std::path::Path;

/// Connections that a peer has to hold: the most idle ones that are measured, with room to spare.
const CONNECTIONS_MAX: usize = 5000;

/// HAProxy's configuration, for `haproxy -db -f FILE`.
pub fn haproxy(listen: SocketAddrV4, origin: SocketAddrV4, splice: bool) -> String {
    // Whether the kernel moves the bytes; worth it only where there are many at a time, which HAProxy then
    // decides.
    let splice = if splice { " option splice-auto\n" } else { "" };
    // One thread, as all subjects have. Its logs are off by default, and so is Nagle's algorithm in TCP mode.
    // The timeouts are longer than any run; without them it warns.
    format!(
        "global\n nbthread 1\n maxconn {CONNECTIONS_MAX}\ndefaults\n mode tcp\n timeout connect 5s\n \
         timeout client 300s\n timeout server 300s\n{splice}listen all\n bind {listen}\n server origin {origin}\n"
    )
}

/// nginx's configuration, for `nginx -e FILE -c FILE`.
pub fn nginx(listen: SocketAddrV4, origin: SocketAddrV4, folder: &Path) -> String {
    // Debian builds the stream module apart; where it is not found, it may be built in.
    let modules = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"];
    let modules = modules.map(|folder| format!("{folder}/ngx_stream_module.so"));
    let module = modules.iter().find(|file| Path::new(file).exists());
    let load_module = module.map_or(String::new(), |file| format!("load_module {file};\n"));
    // One process that is its own worker, so that there is one process to count and to end. Each connection
    // takes two of `worker_connections`. `proxy_half_close` does what all others do: pass on the end of one
    // direction alone.
    format!(
        "{load_module}daemon off;\nmaster_process off;\nworker_processes 1;\npid {folder}/nginx.pid;\n\
         events {{ worker_connections {connections}; }}\n\
         stream {{ server {{ listen {listen} backlog=4096; proxy_pass {origin}; tcp_nodelay on; \
         proxy_half_close on; }} }}\n",
        folder = folder.display(),
        connections = 2 * CONNECTIONS_MAX + 100,
    )
}
