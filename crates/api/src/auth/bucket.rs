//! A token bucket in whole numbers: so many per minute, refilled continuously, at most a minute's worth saved up.
//!
//! Knows no clock: every call is told the time. Amounts are kept in *grains*: 60 000 grains are one unit, so that a limit of
//! `n` per minute refills exactly `n` grains each millisecond and nothing is ever rounded.
//! Invariant: the level is at most `limit` units. It may be below zero: what was used beyond the level is owed.

/// Grains of one unit: the milliseconds of a minute.
const GRAINS: i64 = 60_000;

/// One limit of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Units per minute, and the most that is saved up; 1 to [`Bucket::MAX_LIMIT`].
    limit: i64,
    /// Grains; below zero is debt.
    level: i64,
    /// When the level was right, in milliseconds.
    at_ms: u64,
}

/// Why units cannot be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// They will be there after this many milliseconds, if nobody else takes any.
    For(u64),
    /// More than the bucket ever holds.
    Forever,
}

impl Bucket {
    /// Largest limit: its grains, and those of any debt that a sequence of 2^32 tokens could make, fit an `i64`.
    pub const MAX_LIMIT: u64 = 1_000_000_000_000;

    /// A full bucket. Limits outside of 1 to [`Bucket::MAX_LIMIT`] are taken as the nearer bound.
    pub fn full(limit: u64, now_ms: u64) -> Self {
        let limit = limit.clamp(1, Self::MAX_LIMIT) as i64;
        Self {
            limit,
            level: limit * GRAINS,
            at_ms: now_ms,
        }
    }

    /// Changes the limit; what was saved up stays as far as it fits.
    pub fn set_limit(&mut self, limit: u64, now_ms: u64) {
        self.refill(now_ms);
        self.limit = limit.clamp(1, Self::MAX_LIMIT) as i64;
        self.level = self.level.min(self.capacity());
    }

    /// The limit, units per minute.
    pub fn limit(&self) -> u64 {
        self.limit as u64
    }

    /// Whether `units` could be taken now.
    pub fn check(&mut self, units: u64, now_ms: u64) -> Result<(), Lacking> {
        self.refill(now_ms);
        let wanted = grains(units);
        if wanted > self.capacity() {
            return Err(Lacking::Forever);
        }
        match wanted - self.level {
            missing if missing > 0 => Err(Lacking::For(self.time_for(missing))),
            _ => Ok(()),
        }
    }

    /// Takes `units`, whether they are there or not.
    pub fn charge(&mut self, units: u64, now_ms: u64) {
        self.refill(now_ms);
        self.level = self.level.saturating_sub(grains(units));
    }

    /// Puts back units that were taken and not used.
    pub fn refund(&mut self, units: u64, now_ms: u64) {
        self.refill(now_ms);
        self.level = self
            .level
            .saturating_add(grains(units))
            .min(self.capacity());
    }

    /// Whole units that can be taken now.
    pub fn remaining(&mut self, now_ms: u64) -> u64 {
        self.refill(now_ms);
        (self.level.max(0) / GRAINS) as u64
    }

    /// Milliseconds until the bucket is full again; 0 if it is.
    pub fn reset_ms(&mut self, now_ms: u64) -> u64 {
        self.refill(now_ms);
        self.time_for(self.capacity().saturating_sub(self.level))
    }

    fn capacity(&self) -> i64 {
        self.limit * GRAINS
    }

    fn time_for(&self, missing: i64) -> u64 {
        (missing as u64).div_ceil(self.limit as u64)
    }

    /// A clock that goes back gives nothing and takes nothing.
    fn refill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms);
        let refilled = i64::try_from(passed)
            .unwrap_or(i64::MAX)
            .saturating_mul(self.limit);
        self.level = self.level.saturating_add(refilled).min(self.capacity());
        self.at_ms = self.at_ms.max(now_ms);
    }
}

fn grains(units: u64) -> i64 {
    i64::try_from(units)
        .unwrap_or(i64::MAX)
        .saturating_mul(GRAINS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_at_the_rate_of_the_limit() {
        let mut bucket = Bucket::full(60, 0);
        assert_eq!((bucket.remaining(0), bucket.reset_ms(0)), (60, 0));
        bucket.charge(60, 0);
        assert_eq!((bucket.remaining(0), bucket.reset_ms(0)), (0, 60_000));
        assert_eq!(bucket.check(1, 0), Err(Lacking::For(1000)));
        assert_eq!(bucket.check(1, 999), Err(Lacking::For(1)));
        assert_eq!(bucket.check(1, 1000), Ok(()));
        assert_eq!(bucket.remaining(30_000), 30);
        assert_eq!(bucket.remaining(10_000_000), 60);
    }

    #[test]
    fn debt_is_paid_before_anything_can_be_taken() {
        let mut bucket = Bucket::full(60, 0);
        bucket.charge(90, 0);
        assert_eq!(bucket.check(1, 0), Err(Lacking::For(31_000)));
        assert_eq!(bucket.reset_ms(0), 90_000);
        assert_eq!(bucket.check(61, 0), Err(Lacking::Forever));
        assert_eq!(bucket.remaining(30_000), 0);
        assert_eq!(bucket.remaining(31_000), 1);
    }

    #[test]
    fn extremes_neither_wrap_nor_panic() {
        let mut bucket = Bucket::full(u64::MAX, 0);
        assert_eq!(bucket.limit(), Bucket::MAX_LIMIT);
        bucket.charge(u64::MAX, u64::MAX);
        bucket.charge(u64::MAX, u64::MAX);
        assert_eq!(bucket.remaining(u64::MAX), 0);
        assert!(bucket.reset_ms(0) > 0);
        bucket.refund(u64::MAX, 0);
        assert_eq!(Bucket::full(0, 0).limit(), 1);
    }

    #[test]
    fn a_new_limit_holds_at_once() {
        let mut bucket = Bucket::full(100, 0);
        bucket.set_limit(10, 0);
        assert_eq!((bucket.limit(), bucket.remaining(0)), (10, 10));
        bucket.set_limit(100, 0);
        assert_eq!((bucket.limit(), bucket.remaining(0)), (100, 10));
    }
}
