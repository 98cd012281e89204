//! Limits per key: requests per minute, tokens per minute, requests at a time.
//!
//! An [`Account`] is what one key has used; a [`Lease`] is one request that runs, and gives its place back when dropped.
//! Prompt tokens are taken before the request is queued, generated ones as they come, so a long answer may leave a debt that
//! later requests wait for. What a client is told (remaining, reset, retry) is computed from the same numbers that decide.
//! Invariants: a refused request has used nothing; an account that is full and idle may be forgotten, since a new one is equal.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use super::bucket::{Bucket, Lacking};

/// How often accounts that can be forgotten are looked for.
const SWEEP_MS: u64 = 60_000;

/// What a key may use; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, prompt and output together.
    pub tokens_per_minute: Option<u64>,
    /// Requests that run or wait at the same time.
    pub concurrent_requests: Option<u64>,
}

impl Limits {
    /// Largest rate that can be set, per minute.
    pub const MAX_RATE: u64 = Bucket::MAX_LIMIT;

    /// These, and where there is none, those of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            requests_per_minute: self.requests_per_minute.or(other.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.or(other.tokens_per_minute),
            concurrent_requests: self.concurrent_requests.or(other.concurrent_requests),
        }
    }
}

/// Milliseconds since some start, never going back.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's.
    Monotonic(Instant),
    /// A test's, in milliseconds.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The system's, from now on.
    pub fn monotonic() -> Self {
        Self::Monotonic(Instant::now())
    }

    fn now_ms(&self) -> u64 {
        match self {
            Self::Monotonic(start) => u64::try_from(start.elapsed().as_millis()).unwrap_or(0),
            Self::Manual(now) => now.load(Ordering::SeqCst),
        }
    }
}

/// Which limit a request was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    Requests,
    Tokens,
    Concurrency,
}

/// Why a request may not run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    pub by: Limited,
    pub limit: u64,
    /// How many units of it the request needed.
    pub requested: u64,
    pub retry: Retry,
}

/// When a refused request could be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// After this time, if the key is not used otherwise; not earlier.
    After(Duration),
    /// When another request of the key has ended.
    Unknown,
    /// Never: it needs more than the limit.
    Never,
}

/// One limit as a client is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gauge {
    pub limit: u64,
    pub remaining: u64,
    /// Until `remaining` is `limit` again, if the key is not used.
    pub reset: Duration,
}

/// Where a key stands; `None` where it has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub requests: Option<Gauge>,
    pub tokens: Option<Gauge>,
}

/// The accounts of all keys that are in use.
#[derive(Debug)]
pub(crate) struct Limiter {
    accounts: DashMap<Arc<str>, Arc<Account>>,
    clock: Clock,
    swept_ms: AtomicU64,
}

#[derive(Debug)]
struct Account {
    state: Mutex<AccountState>,
}

#[derive(Debug)]
struct AccountState {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    concurrent: Option<u64>,
    running: u64,
}

/// A request that counts as running until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    account: Arc<Account>,
    clock: Clock,
}

impl Limiter {
    pub fn new(clock: Clock) -> Self {
        let swept_ms = AtomicU64::new(clock.now_ms());
        Self {
            accounts: DashMap::new(),
            clock,
            swept_ms,
        }
    }

    /// Takes a request from the account `id`, and a place among those that run.
    ///
    /// # Errors
    /// A limit is reached; nothing was taken. The standing is for the answer's headers.
    pub fn admit(&self, id: &Arc<str>, limits: Limits) -> Result<Lease, (OverLimit, Standing)> {
        let now = self.clock.now_ms();
        self.sweep(now);
        // Cloned under the shard's lock, so that the sweep, which holds it too, sees that the account is in use.
        let account = Arc::clone(
            &self
                .accounts
                .entry(Arc::clone(id))
                .or_insert_with(|| Arc::new(Account::new(limits, now))),
        );
        let mut state = account.state();
        state.set_limits(limits, now);
        match state.admit(now) {
            Ok(()) => {
                drop(state);
                Ok(Lease {
                    account,
                    clock: self.clock.clone(),
                })
            }
            Err(over) => {
                let standing = state.standing(now);
                Err((over, standing))
            }
        }
    }

    fn sweep(&self, now_ms: u64) {
        let swept = self.swept_ms.load(Ordering::Relaxed);
        let due = now_ms.saturating_sub(swept) >= SWEEP_MS;
        if !due
            || self
                .swept_ms
                .compare_exchange(swept, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        self.accounts.retain(|_, account| {
            Arc::strong_count(account) > 1 || !account.state().is_as_new(now_ms)
        });
    }

    #[cfg(test)]
    pub fn num_accounts(&self) -> usize {
        self.accounts.len()
    }
}

impl Account {
    fn new(limits: Limits, now_ms: u64) -> Self {
        let bucket = |limit: Option<u64>| limit.map(|limit| Bucket::full(limit, now_ms));
        Self {
            state: Mutex::new(AccountState {
                requests: bucket(limits.requests_per_minute),
                tokens: bucket(limits.tokens_per_minute),
                concurrent: limits.concurrent_requests,
                running: 0,
            }),
        }
    }

    /// Nothing panics while it holds the lock, and the numbers are whole in any case.
    fn state(&self) -> MutexGuard<'_, AccountState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccountState {
    /// A key's limits may change while it is in use.
    fn set_limits(&mut self, limits: Limits, now_ms: u64) {
        let adjust = |bucket: &mut Option<Bucket>, limit: Option<u64>| match (&mut *bucket, limit) {
            (Some(bucket), Some(limit)) if bucket.limit() != limit => {
                bucket.set_limit(limit, now_ms);
            }
            (Some(_), Some(_)) => {}
            (_, limit) => *bucket = limit.map(|limit| Bucket::full(limit, now_ms)),
        };
        adjust(&mut self.requests, limits.requests_per_minute);
        adjust(&mut self.tokens, limits.tokens_per_minute);
        self.concurrent = limits.concurrent_requests;
    }

    fn admit(&mut self, now_ms: u64) -> Result<(), OverLimit> {
        if let Some(limit) = self.concurrent
            && self.running >= limit
        {
            return Err(OverLimit {
                by: Limited::Concurrency,
                limit,
                requested: 1,
                retry: Retry::Unknown,
            });
        }
        // How many tokens it will be is not known yet; at least one.
        self.check(1, 1, now_ms)?;
        if let Some(requests) = &mut self.requests {
            requests.charge(1, now_ms);
        }
        self.running += 1;
        Ok(())
    }

    /// Whether so many requests and tokens could be taken; the error is about what is missing for longer.
    fn check(&mut self, requests: u64, tokens: u64, now_ms: u64) -> Result<(), OverLimit> {
        let over = |by, bucket: &mut Option<Bucket>, units| {
            let bucket = bucket.as_mut()?;
            let lacking = bucket.check(units, now_ms).err()?;
            Some(OverLimit {
                by,
                limit: bucket.limit(),
                requested: units,
                retry: match lacking {
                    Lacking::For(ms) => Retry::After(Duration::from_millis(ms)),
                    Lacking::Forever => Retry::Never,
                },
            })
        };
        let requests = over(Limited::Requests, &mut self.requests, requests);
        let tokens = over(Limited::Tokens, &mut self.tokens, tokens);
        let longer = match (requests, tokens) {
            (Some(requests), Some(tokens)) => {
                let is_longer = match (requests.retry, tokens.retry) {
                    (Retry::After(requests), Retry::After(tokens)) => tokens > requests,
                    (_, retry) => retry == Retry::Never,
                };
                Some(if is_longer { tokens } else { requests })
            }
            (requests, tokens) => requests.or(tokens),
        };
        longer.map_or(Ok(()), Err)
    }

    fn standing(&mut self, now_ms: u64) -> Standing {
        let gauge = |bucket: &mut Option<Bucket>| {
            bucket.as_mut().map(|bucket| Gauge {
                limit: bucket.limit(),
                remaining: bucket.remaining(now_ms),
                reset: Duration::from_millis(bucket.reset_ms(now_ms)),
            })
        };
        Standing {
            requests: gauge(&mut self.requests),
            tokens: gauge(&mut self.tokens),
        }
    }

    fn is_as_new(&mut self, now_ms: u64) -> bool {
        let full = |bucket: &mut Option<Bucket>| {
            bucket
                .as_mut()
                .is_none_or(|bucket| bucket.reset_ms(now_ms) == 0)
        };
        self.running == 0 && full(&mut self.requests) && full(&mut self.tokens)
    }
}

impl Lease {
    /// Takes a prompt's tokens, which were counted after the request was admitted.
    ///
    /// # Errors
    /// There are not that many; none was taken. The time to wait is for the whole request, which counts as one again.
    pub fn charge_prompt(&self, tokens: u64) -> Result<(), OverLimit> {
        let now = self.clock.now_ms();
        let mut state = self.account.state();
        if let Some(bucket) = &mut state.tokens
            && bucket.check(tokens, now).is_err()
        {
            // The client will have to send the request again, and that counts.
            return state.check(1, tokens, now);
        }
        if let Some(bucket) = &mut state.tokens {
            bucket.charge(tokens, now);
        }
        Ok(())
    }

    /// Takes tokens that were generated, into debt if need be.
    pub fn charge(&self, tokens: u64) {
        let now = self.clock.now_ms();
        if let Some(bucket) = &mut self.account.state().tokens {
            bucket.charge(tokens, now);
        }
    }

    /// Gives the tokens of a prompt back that was not computed.
    pub fn refund(&self, tokens: u64) {
        let now = self.clock.now_ms();
        if let Some(bucket) = &mut self.account.state().tokens {
            bucket.refund(tokens, now);
        }
    }

    /// Where the key stands now.
    pub fn standing(&self) -> Standing {
        let now = self.clock.now_ms();
        self.account.state().standing(now)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.account.state();
        state.running = state.running.saturating_sub(1);
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
