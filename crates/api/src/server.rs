//! The HTTP server: connections, their bounds, and the order of what stands around the routes.
//!
//! Owns no listener: whoever calls binds one, so that a test can take port 0 and the gateway can fail early.
//! `actix_web::HttpServer` would do but for the connection under it, which is ours (`connection`); so the same is put
//! together here from its parts.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_http::HttpService;
use actix_service::{ServiceFactoryExt, map_config};
use actix_web::App;
use actix_web::dev::{AppConfig, Server, fn_service};
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::web::Data;

use crate::auth;
use crate::connection::{Connection, Patience};
use crate::cors;
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
    /// How long a request's head may take to arrive: each one's, and the first one's from the connection's begin.
    pub request_timeout: Duration,
    /// How long a client may go without reading what is sent to it.
    pub write_timeout: Duration,
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
    let builder = Server::build()
        .workers(config.workers)
        .max_concurrent_connections(config.max_connections)
        .shutdown_timeout(config.shutdown_timeout.as_secs())
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    let (keep_alive, disconnect_timeout) = (config.keep_alive, config.disconnect_timeout);
    let patience = Patience {
        head: config.request_timeout,
        write: config.write_timeout,
        linger: config.disconnect_timeout,
    };
    let state = Data::new(state);
    let service = move || {
        let (state, stopping) = (state.clone(), stopping.clone());
        let metrics = state.metrics.api.clone();
        let app = App::new()
            .app_data(state)
            .configure(routes::configure)
            // From the inside out. What the guard refuses has an id and a line in the log; a browser asks before it sends
            // a credential, so `cors` answers before the guard.
            .wrap(from_fn(auth::guard))
            .wrap(from_fn(cors::apply))
            .wrap(from_fn(request_id::track));
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(keep_alive)
            .client_disconnect_timeout(disconnect_timeout)
            // Off: the connection times every head, not only the first.
            .client_request_timeout(Duration::ZERO)
            // The connection says when a client is gone; a malformed second request is no such thing.
            .h1_allow_half_closed(true)
            .on_connect_ext(|connection: &Connection, data| {
                data.insert(connection.activity());
            })
            .h1(map_config(app, |()| AppConfig::default()));
        fn_service(move |io: TcpStream| {
            let peer = io.peer_addr().ok();
            let connection = Connection::new(io, patience, metrics.clone());
            async move { Ok((connection, peer)) }
        })
        .and_then(http)
    };
    Ok(builder.listen("gossamer", listener, service)?.run())
}
