//! Which logins are used. Each is looked at alone first, then beside the others.

use std::collections::HashMap;

use crate::credential::docker_config::redacted;
use crate::credential::keyring::{Key, Keyring, index_key};
use crate::image::ImageRef;

use super::kubelet::{self, DOCKER_HUB};
use super::{Clock, Found, Refusal, Row, State};

/// An image of Docker Hub that no key with a path covers.
const ANY_DOCKER_HUB_IMAGE: &str = "docker.io/any-account/any-image";

/// A row for each of `found`.
pub(super) fn rows(found: &[Found], clock: &Clock) -> Vec<Row> {
    let mut rows: Vec<Row> = found.iter().map(|found| alone(found, clock)).collect();
    let mut last = HashMap::new();
    for (at, row) in rows.iter().enumerate() {
        if row.state == State::Used {
            last.insert(row.index_key.clone(), at);
        }
    }
    for (at, row) in rows.iter_mut().enumerate() {
        match (row.state, last.get(&row.index_key)) {
            (State::Used, Some(last)) if *last != at => replace(row, found.get(*last)),
            _ => {}
        }
    }
    fill_empty(&mut rows);
    hide_docker_hub(&mut rows);
    rows
}

/// What is to be said of one login as if it were the only one.
fn alone(found: &Found, clock: &Clock) -> Row {
    let index_key = index_key(&found.key);
    let mut row = Row {
        key: redacted(&found.key),
        index_key: index_key.map(|key| String::from_utf8_lossy(&key).into_owned()),
        from: found.from.clone(),
        state: State::Used,
        secret: None,
        reason: None,
        fix: None,
        notes: Vec::new(),
    };
    match &found.login {
        Err(refusal) => refuse(&mut row, refusal.clone()),
        Ok(login) => match kubelet::refusal(login.entry(), row.index_key.as_deref(), clock) {
            Some(refusal) => refuse(&mut row, refusal),
            None => {
                let index_key = row.index_key.as_deref().unwrap_or_default();
                row.notes = kubelet::notes(login.entry(), index_key, clock);
                if !login.entry().is_usable() {
                    row.state = State::Empty;
                }
            }
        },
    }
    row
}

fn refuse(row: &mut Row, refusal: Refusal) {
    row.state = State::Unusable;
    row.reason = Some(refusal.reason);
    row.fix = Some(refusal.fix);
}

fn replace(row: &mut Row, by: Option<&Found>) {
    row.state = State::Replaced;
    row.notes.clear();
    row.reason = by.map(|by| {
        let key = redacted(&by.key);
        format!(
            "{key:?} from {} is the same registry, and comes later",
            by.from
        )
    });
}

/// An empty entry is what `docker login` leaves beside a credential helper: the login, or why there is none, is on
/// another row. Where it is not, the entry cannot be used.
fn fill_empty(rows: &mut [Row]) {
    let elsewhere: Vec<_> = rows
        .iter()
        .filter(|row| row.state != State::Empty)
        .map(|row| row.index_key.clone())
        .collect();
    for row in rows.iter_mut().filter(|row| row.state == State::Empty) {
        row.notes.clear();
        if !elsewhere.contains(&row.index_key) {
            refuse(
                row,
                Refusal {
                    reason: "user name and password are not both there, and no credential helper gave them".into(),
                    fix: "log in again, or let the credential helper run".into(),
                },
            );
        }
    }
}

/// The kubelet asks the Docker Hub key only where no other key matches: one that covers all of Docker Hub hides it.
fn hide_docker_hub(rows: &mut [Row]) {
    let others = rows.iter().filter(|row| row.state == State::Used);
    let keyring = Keyring::new(others.map(|row| Key {
        key: &row.key,
        usable: true,
    }));
    let Ok(image) = ImageRef::parse(ANY_DOCKER_HUB_IMAGE) else {
        return;
    };
    let lookup = keyring.lookup(&image);
    let Some(hider) = lookup.matched_in_order.first().map(|key| (*key).to_owned()) else {
        return;
    };
    if lookup.docker_hub_fallback {
        return;
    }
    let hidden =
        |row: &&mut Row| row.state == State::Used && row.index_key.as_deref() == Some(DOCKER_HUB);
    for row in rows.iter_mut().filter(hidden) {
        let reason =
            format!("{hider:?} hides it: the kubelet uses that for every image of Docker Hub");
        let fix = "log out of one of the two, by `docker logout` or `podman logout`".to_owned();
        refuse(row, Refusal { reason, fix });
        row.notes.clear();
    }
}
