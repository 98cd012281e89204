//! The limiter against a model that is too simple to be wrong: a counter that is raised every millisecond, one per key,
//! none of which is ever forgotten.

use proptest::prelude::*;

use super::*;

const KEYS: [&str; 3] = ["a", "b", "c"];
/// Times up to this one are counted out; of longer ones (a large debt, a small limit) only that they are longer.
const MOST_MS: u64 = 130_000;

/// A time that was told, against the first at which the model says yes.
fn assert_same_time(told: Duration, counted: Option<u64>) {
    let told = told.as_millis() as u64;
    assert_eq!(counted, (told <= MOST_MS).then_some(told));
}

/// A rate limit, counted in 1/60000 units.
#[derive(Clone, Debug)]
struct NaiveRate {
    limit: i128,
    level: i128,
}

impl NaiveRate {
    fn new(limit: u64) -> Self {
        let limit = i128::from(limit);
        Self {
            limit,
            level: limit * 60_000,
        }
    }

    fn tick(&mut self) {
        self.level = (self.level + self.limit).min(self.limit * 60_000);
    }

    fn holds(&self, units: u64) -> bool {
        self.level >= i128::from(units) * 60_000
    }

    /// Counts how many milliseconds pass until something is so.
    fn ticks_until(&self, is_so: impl Fn(&Self) -> bool) -> Option<u64> {
        let mut later = self.clone();
        (0..=MOST_MS).find(|_| {
            let found = is_so(&later);
            later.tick();
            found
        })
    }
}

#[derive(Clone, Debug)]
struct NaiveKey {
    requests: Option<NaiveRate>,
    tokens: Option<NaiveRate>,
    concurrent: Option<u64>,
    running: u64,
}

impl NaiveKey {
    fn new(limits: Limits) -> Self {
        Self {
            requests: limits.requests_per_minute.map(NaiveRate::new),
            tokens: limits.tokens_per_minute.map(NaiveRate::new),
            concurrent: limits.concurrent_requests,
            running: 0,
        }
    }

    fn rates_hold(&self, tokens: u64) -> bool {
        self.requests.as_ref().is_none_or(|rate| rate.holds(1))
            && self.tokens.as_ref().is_none_or(|rate| rate.holds(tokens))
    }

    fn tick(&mut self) {
        (self.requests.iter_mut().chain(&mut self.tokens)).for_each(NaiveRate::tick);
    }

    /// Milliseconds until a request with so many tokens could be taken.
    fn wait(&self, tokens: u64) -> Option<u64> {
        let mut later = self.clone();
        (0..=MOST_MS).find(|_| {
            let found = later.rates_hold(tokens);
            later.tick();
            found
        })
    }
}

#[derive(Clone, Debug)]
enum Op {
    Pass(u64),
    Admit(usize),
    Prompt(usize, u64),
    Generate(usize, u64),
    Refund(usize, u64),
    End(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let index = 0usize..64;
    let op = prop_oneof![
        3 => prop_oneof![0u64..50, 0u64..5_000, 50_000u64..70_000].prop_map(Op::Pass),
        6 => (0..KEYS.len()).prop_map(Op::Admit),
        3 => (index.clone(), 0u64..80).prop_map(|(i, n)| Op::Prompt(i, n)),
        3 => (index.clone(), 0u64..40).prop_map(|(i, n)| Op::Generate(i, n)),
        1 => (index.clone(), 0u64..40).prop_map(|(i, n)| Op::Refund(i, n)),
        4 => index.prop_map(Op::End),
    ];
    prop::collection::vec(op, 1..60)
}

fn limits() -> impl Strategy<Value = Limits> {
    let rate = |most| prop_oneof![Just(None), (1u64..most).prop_map(Some)];
    (rate(12), rate(70), rate(4)).prop_map(|(requests, tokens, concurrent)| Limits {
        requests_per_minute: requests,
        tokens_per_minute: tokens,
        concurrent_requests: concurrent,
    })
}

fn assert_told_the_truth(told: Option<Gauge>, naive: &Option<NaiveRate>) {
    let (Some(told), Some(naive)) = (told, naive) else {
        assert!(told.is_none() && naive.is_none());
        return;
    };
    assert_eq!(i128::from(told.limit), naive.limit);
    // Exactly so many can be taken at once.
    assert!(told.remaining == 0 || naive.holds(told.remaining));
    assert!(!naive.holds(told.remaining + 1) || told.remaining == told.limit);
    let reset = naive.ticks_until(|rate| rate.holds(rate.limit as u64));
    assert_same_time(told.reset, reset);
}

fn assert_refused_rightly(over: OverLimit, naive: &NaiveKey, tokens: u64) {
    match over.retry {
        // The first millisecond at which the model would have said yes: not later, not earlier.
        Retry::After(after) => {
            assert_ne!(over.by, Limited::Concurrency);
            assert_same_time(after, naive.wait(tokens));
            assert!(!after.is_zero());
        }
        Retry::Never => {
            assert_eq!((over.by, over.requested), (Limited::Tokens, tokens));
            assert!(i128::from(tokens) > naive.tokens.as_ref().expect("a limit").limit);
        }
        Retry::Unknown => {
            assert_eq!(over.by, Limited::Concurrency);
            assert_eq!(naive.concurrent, Some(naive.running));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn decides_and_tells_as_the_naive_model(
        all_limits in prop::collection::vec(limits(), KEYS.len()),
        ops in ops(),
    ) {
        let time = Arc::new(AtomicU64::new(0));
        let limiter = Limiter::new(Clock::Manual(Arc::clone(&time)));
        let ids: Vec<Arc<str>> = KEYS.iter().map(|key| Arc::from(*key)).collect();
        let mut naive: Vec<NaiveKey> = all_limits.iter().map(|l| NaiveKey::new(*l)).collect();
        let mut leases: Vec<(usize, Lease)> = Vec::new();
        for op in ops {
            let pick = |i: usize| (!leases.is_empty()).then(|| i % leases.len());
            match op {
                Op::Pass(ms) => {
                    time.fetch_add(ms, Ordering::SeqCst);
                    for _ in 0..ms {
                        naive.iter_mut().for_each(NaiveKey::tick);
                    }
                }
                Op::Admit(key) => {
                    let model = &mut naive[key];
                    let allowed = model.rates_hold(1)
                        && model.concurrent.is_none_or(|most| model.running < most);
                    match limiter.admit(&ids[key], all_limits[key]) {
                        Ok(lease) => {
                            prop_assert!(allowed);
                            if let Some(rate) = &mut model.requests {
                                rate.level -= 60_000;
                            }
                            model.running += 1;
                            leases.push((key, lease));
                        }
                        Err((over, standing)) => {
                            prop_assert!(!allowed);
                            assert_refused_rightly(over, model, 1);
                            assert_told_the_truth(standing.requests, &model.requests);
                            assert_told_the_truth(standing.tokens, &model.tokens);
                        }
                    }
                }
                Op::Prompt(i, tokens) => {
                    let Some(i) = pick(i) else { continue };
                    let (key, lease) = &leases[i];
                    let model = &mut naive[*key];
                    let allowed = model.tokens.as_ref().is_none_or(|rate| rate.holds(tokens));
                    match lease.charge_prompt(tokens) {
                        Ok(()) => {
                            prop_assert!(allowed);
                            if let Some(rate) = &mut model.tokens {
                                rate.level -= i128::from(tokens) * 60_000;
                            }
                        }
                        Err(over) => {
                            prop_assert!(!allowed);
                            assert_refused_rightly(over, model, tokens);
                        }
                    }
                }
                Op::Generate(i, tokens) => {
                    let Some(i) = pick(i) else { continue };
                    let (key, lease) = &leases[i];
                    lease.charge(tokens);
                    if let Some(rate) = &mut naive[*key].tokens {
                        rate.level -= i128::from(tokens) * 60_000;
                    }
                }
                Op::Refund(i, tokens) => {
                    let Some(i) = pick(i) else { continue };
                    let (key, lease) = &leases[i];
                    lease.refund(tokens);
                    if let Some(rate) = &mut naive[*key].tokens {
                        rate.level = (rate.level + i128::from(tokens) * 60_000).min(rate.limit * 60_000);
                    }
                }
                Op::End(i) => {
                    let Some(i) = pick(i) else { continue };
                    let (key, lease) = leases.swap_remove(i);
                    drop(lease);
                    naive[key].running -= 1;
                }
            }
            for (key, lease) in &leases {
                let standing = lease.standing();
                assert_told_the_truth(standing.requests, &naive[*key].requests);
                assert_told_the_truth(standing.tokens, &naive[*key].tokens);
            }
        }
    }
}

fn limited(requests: u64, tokens: u64) -> Limits {
    Limits {
        requests_per_minute: Some(requests),
        tokens_per_minute: Some(tokens),
        concurrent_requests: None,
    }
}

#[test]
fn accounts_of_idle_keys_are_forgotten_and_those_in_use_or_in_debt_are_not() {
    let time = Arc::new(AtomicU64::new(0));
    let limiter = Limiter::new(Clock::Manual(Arc::clone(&time)));
    let admit = |id: &str| limiter.admit(&Arc::from(id), limited(60, 1000));
    for i in 0..10_000 {
        drop(admit(&format!("passing by {i}")));
    }
    assert_eq!(limiter.num_accounts(), 10_000);
    let held = admit("held").unwrap();
    admit("in debt").unwrap().charge(4000);
    time.store(2 * SWEEP_MS, Ordering::SeqCst);
    drop(admit("new"));
    assert_eq!(limiter.num_accounts(), 3);
    let (over, _) = admit("in debt").unwrap_err();
    assert_eq!(over.by, Limited::Tokens);

    drop(held);
    time.store(100 * SWEEP_MS, Ordering::SeqCst);
    drop(admit("new"));
    assert_eq!(limiter.num_accounts(), 1);
}

#[test]
fn accounts_are_apart() {
    let limiter = Limiter::new(Clock::monotonic());
    let admit = |id: &str| limiter.admit(&Arc::from(id), limited(1, 10)).map(drop);
    assert!(admit("a").is_ok());
    assert!(admit("a").is_err());
    assert!(admit("b").is_ok());
}

#[test]
fn changed_limits_hold_for_the_next_request() {
    let time = Arc::new(AtomicU64::new(0));
    let limiter = Limiter::new(Clock::Manual(time));
    let id: Arc<str> = Arc::from("a");
    let admit = |limits| limiter.admit(&id, limits).map(drop);
    assert!(admit(limited(5, 10)).is_ok());
    assert!(admit(limited(1, 10)).is_ok());
    assert!(admit(limited(1, 10)).is_err());
    assert!(admit(Limits::default()).is_ok());
    assert!(
        admit(limited(1, 10)).is_ok(),
        "a limit that is new starts full"
    );
}

#[test]
fn many_threads_take_exactly_the_limit() {
    let limiter = Limiter::new(Clock::Manual(Arc::default()));
    let id: Arc<str> = Arc::from("a");
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    if limiter.admit(&id, limited(333, 1000)).is_ok() {
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 333);
}
