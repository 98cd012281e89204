//! For tests: a scripted executor, a server on a free port, an HTTP and SSE client.
