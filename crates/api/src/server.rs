//! The HTTP server's settings, in one place for the gateway and the tests.
//!
//! Owns no listener: whoever calls binds one, so that a test can take port 0 and the gateway can fail early.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, HttpServer};

use crate::auth;
use crate::request_id;
use crate::routes;
use crate::state::AppState;

/// How connections are treated. Every value is the operator's; there are no defaults here.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Threads that serve connections. Few are enough: they only move bytes.
    pub workers: usize,
    /// Most open connections per worker; further ones wait in the backlog.
    pub max_connections: usize,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How long a request's head may take to arrive.
    pub request_timeout: Duration,
    /// How long a closing connection may take to be closed by the client.
    pub disconnect_timeout: Duration,
    /// After a graceful stop: how long running answers may take.
    pub shutdown_timeout: Duration,
}

/// Serves on `listener`. The result runs when awaited, and stops by its handle; signals are left to the caller.
///
/// # Errors
/// The listener cannot be used.
pub fn serve(listener: TcpListener, config: &ServerConfig, state: AppState) -> io::Result<Server> {
    let state = Data::new(state);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .configure(routes::configure)
            // The last is the outermost: what the guard refuses has an id and a line in the log.
            .wrap(from_fn(auth::guard))
            .wrap(from_fn(request_id::track))
    })
    .workers(config.workers)
    .max_connections(config.max_connections)
    .keep_alive(config.keep_alive)
    .client_request_timeout(config.request_timeout)
    .client_disconnect_timeout(config.disconnect_timeout)
    .shutdown_timeout(config.shutdown_timeout.as_secs())
    // Without this, a client that has gone is not noticed before something is written to it, and its request goes on
    // (actix/actix-web#3777). The price: a client that closes its sending half early gets no answer.
    .h1_allow_half_closed(false)
    // Events are small and must not wait for each other.
    .tcp_nodelay(true)
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}
