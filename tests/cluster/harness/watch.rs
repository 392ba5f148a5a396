//! A watch from outside: what an API server says, and when.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::api::Api;
use super::wait::wait_for;

/// A running watch. Dropping it ends it.
pub(crate) struct Watch {
    socket: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Gives `on_event` each event of the collection `path` (with a query), those of what is there already
    /// first.
    pub(crate) fn start(
        api: &Api,
        path: &str,
        mut on_event: impl FnMut(&Value) + Send + 'static,
    ) -> Self {
        let (stream, socket) = api.watch(path).expect("the API server listens");
        let thread = std::thread::spawn(move || {
            // The head, then one line for each event; an error is the end of the watch.
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    on_event(&event);
                }
            }
        });
        Self {
            socket,
            thread: Some(thread),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.socket.shutdown(Shutdown::Both));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// When the Secret of one name came to be in each namespace.
pub(crate) struct Arrivals {
    at: Arc<Mutex<BTreeMap<String, Instant>>>,
    _watch: Watch,
}

impl Arrivals {
    /// Watches from now on.
    pub(crate) fn of_secret(api: &Api, name: &str) -> Self {
        let at = Arc::new(Mutex::new(BTreeMap::new()));
        let seen = Arc::clone(&at);
        let path = format!("/api/v1/secrets?watch=true&fieldSelector=metadata.name={name}");
        let watch = Watch::start(api, &path, move |event| {
            if let Some(namespace) = event["object"]["metadata"]["namespace"].as_str() {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.entry(namespace.to_owned())
                    .or_insert_with(Instant::now);
            }
        });
        Self { at, _watch: watch }
    }

    /// Waits until it is in all these namespaces, and says when it came to each.
    #[track_caller]
    pub(crate) fn in_all(&self, namespaces: &[String], limit: Duration) -> Vec<Instant> {
        wait_for("the Secret is in every namespace", limit, || {
            let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = namespaces.iter().map(|name| at.get(name).copied());
            let seen: Vec<Instant> = seen.flatten().collect();
            match seen.len() == namespaces.len() {
                true => Ok(seen),
                false => Err(format!("{} of {}", seen.len(), namespaces.len())),
            }
        })
    }
}
