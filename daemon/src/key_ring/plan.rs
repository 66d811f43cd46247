//! What becomes of the keys: from how they are and what time it is to how they shall be. Nothing here
//! touches a disk or a database.

use std::sync::Arc;
use std::time::Duration;

use super::{RingError, Rotation, Settings, When, new_key, seconds};
use crate::signing_key::SigningKey;
use crate::signing_key::directory::{Life, Record};

/// How long `rotate --now` announces a key: ten looks of nginx's default interval of one second.
const SHORT_ANNOUNCEMENT: Duration = Duration::from_secs(10);

/// Added to a retiring key's time: a signature asked for just before the change may be made after it.
const IN_FLIGHT: Duration = Duration::from_secs(60);

/// So many keys make a JWKS of 100 KiB at most; readers take 1 MiB and 1,000 keys.
const MOST_KEYS: usize = 100;

/// A key with its place in life.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) key: Arc<SigningKey>,
}

impl Entry {
    /// A key that signs from now on.
    pub(super) fn signing(key: SigningKey, now: i64, lifetime: u64) -> Self {
        let record = Record {
            kid: key.kid().to_owned(),
            algorithm: key.algorithm().as_str().to_owned(),
            created: now,
            longest_lifetime: lifetime,
            signing_since: Some(now),
            life: Life::Signing,
        };
        Self { record, key: Arc::new(key) }
    }

    fn announced(key: SigningKey, now: i64, lifetime: u64, announce_for: Duration) -> Self {
        let signs_at = now.saturating_add(seconds(announce_for));
        let mut entry = Self::signing(key, now, lifetime);
        entry.record.signing_since = None;
        entry.record.life = Life::Announced { signs_at };
        entry
    }

    fn is_announced(&self) -> bool {
        matches!(self.record.life, Life::Announced { .. })
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// What the time brings.
    Step,
    /// A new key.
    Rotate(When),
}

/// How the keys shall be.
pub(super) struct Plan {
    pub(super) next: Vec<Entry>,
    /// What a rotation was asked for leads to.
    pub(super) rotation: Option<Rotation>,
    /// Whether there is anything to do.
    pub(super) is_change: bool,
}

/// The plan for `request`. Makes a key where one is needed.
pub(super) fn plan(
    entries: &[Entry],
    settings: &Settings,
    now: i64,
    request: Request,
) -> Result<Plan, RingError> {
    let mut next = entries.to_vec();
    let rotation = match request {
        Request::Step => {
            start_signing(&mut next, settings, now);
            next.retain(
                |entry| !matches!(entry.record.life, Life::Retiring { gone_at } if gone_at <= now),
            );
            if is_time_for_another(&next, settings, now) {
                announce(&mut next, settings, now)?;
            }
            None
        }
        Request::Rotate(When::Emergency) => Some(replace(&mut next, settings, now)?),
        Request::Rotate(when) => {
            if !next.iter().any(Entry::is_announced) {
                announce(&mut next, settings, now)?;
            }
            next.iter_mut().find_map(|entry| {
                let Life::Announced { signs_at } = &mut entry.record.life else { return None };
                if when == When::Now {
                    let soon = entry.record.created.saturating_add(seconds(SHORT_ANNOUNCEMENT));
                    *signs_at = (*signs_at).min(soon);
                }
                let (kid, signs_at) = (entry.record.kid.clone(), *signs_at);
                Some(Rotation { kid, signs_at, dropped: Vec::new() })
            })
        }
    };
    let same = |one: &Entry, other: &Entry| one.record == other.record;
    let is_change =
        next.len() != entries.len() || !next.iter().zip(entries).all(|(a, b)| same(a, b));
    Ok(Plan { next, rotation, is_change })
}

/// An announced key that is due takes the place of the signing one.
fn start_signing(entries: &mut [Entry], settings: &Settings, now: i64) {
    let due = entries.iter().position(
        |entry| matches!(entry.record.life, Life::Announced { signs_at } if signs_at <= now),
    );
    let Some(due) = due else { return };
    for entry in entries.iter_mut().filter(|entry| entry.record.life == Life::Signing) {
        let stay = stay(entry.record.longest_lifetime, settings);
        entry.record.life = Life::Retiring { gone_at: now.saturating_add_unsigned(stay) };
    }
    let record = &mut entries[due].record;
    record.life = Life::Signing;
    record.signing_since = Some(now);
    record.longest_lifetime = record.longest_lifetime.max(settings.jwt_lifetime.as_secs());
}

/// How long a key stays published after its last signature, in seconds.
pub(super) fn stay(longest_lifetime: u64, settings: &Settings) -> u64 {
    longest_lifetime.saturating_add((settings.leeway + IN_FLIGHT).as_secs())
}

/// Whether the next key has to be announced now, to sign when the present one has signed long enough.
fn is_time_for_another(entries: &[Entry], settings: &Settings, now: i64) -> bool {
    let every = settings.keys.rotate_every;
    if every.is_zero() || entries.iter().any(Entry::is_announced) || entries.len() >= MOST_KEYS {
        return false;
    }
    next_announcement(entries, settings).is_some_and(|at| at <= now)
}

/// When the schedule announces the next key, in Unix seconds.
pub(super) fn next_announcement(entries: &[Entry], settings: &Settings) -> Option<i64> {
    let every = settings.keys.rotate_every;
    scheduled(entries, every, every.saturating_sub(settings.keys.announce_for))
}

/// When the schedule lets the next key sign, in Unix seconds.
pub(super) fn next_rotation(entries: &[Entry], settings: &Settings) -> Option<i64> {
    let (every, announce_for) = (settings.keys.rotate_every, settings.keys.announce_for);
    scheduled(entries, every, every.max(announce_for))
}

/// So long after the present key began to sign, if no other one is announced.
fn scheduled(entries: &[Entry], every: Duration, after: Duration) -> Option<i64> {
    if every.is_zero() || entries.iter().any(Entry::is_announced) {
        return None;
    }
    let signing = entries.iter().find(|entry| entry.record.life == Life::Signing)?;
    let since = signing.record.signing_since.unwrap_or(signing.record.created);
    Some(since.saturating_add(seconds(after)))
}

fn announce(entries: &mut Vec<Entry>, settings: &Settings, now: i64) -> Result<(), RingError> {
    if entries.len() >= MOST_KEYS {
        return Err(RingError::TooMany(MOST_KEYS));
    }
    let (lifetime, announce_for) = (settings.jwt_lifetime.as_secs(), settings.keys.announce_for);
    let key = new_key(&settings.keys)?;
    entries.insert(0, Entry::announced(key, now, lifetime, announce_for));
    Ok(())
}

/// A new key signs at once. The one that signed is gone with all its tokens, and so is an announced one,
/// which was kept in the same place.
fn replace(entries: &mut Vec<Entry>, settings: &Settings, now: i64) -> Result<Rotation, RingError> {
    let key = new_key(&settings.keys)?;
    let is_dropped = |entry: &Entry| !matches!(entry.record.life, Life::Retiring { .. });
    let dropped = entries.iter().filter(|entry| is_dropped(entry));
    let dropped = dropped.map(|entry| entry.record.kid.clone()).collect();
    entries.retain(|entry| !is_dropped(entry));
    entries.insert(0, Entry::signing(key, now, settings.jwt_lifetime.as_secs()));
    Ok(Rotation { kid: entries[0].record.kid.clone(), signs_at: now, dropped })
}
