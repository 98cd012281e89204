//! Where grammars are compiled: on one thread, of low priority, one after the other.
//!
//! Compiling takes milliseconds of a core that the engine has use for; on a small machine a step would wait for its end.
//! So a compilation never takes more than one core, and gives it up to whoever has tokens to make.
//! Knows no request. Invariant: a grammar that is in the cache is had without waiting for others.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use gossamer_harmony::{Compiled, Grammar, GrammarCache, GrammarError, GrammarSource};
use tracing::warn;

/// Added to the thread's niceness: the most that can be. With half of that a compilation beside one stream of the embedded
/// model, on two cores, held up some of its tokens for several steps. The request with the new schema pays for it: beside an
/// engine that leaves no core idle, its first token took 67 ms more instead of 6 (20B's width, 4 layers).
#[cfg(target_os = "linux")]
const NICENESS: i32 = 19;

type Answer = Result<(Arc<Grammar>, Compiled), GrammarError>;

struct Job {
    source: GrammarSource,
    answer: SyncSender<Answer>,
}

/// The cache and the thread that fills it.
pub(crate) struct Grammars {
    cache: Arc<GrammarCache>,
    /// `None`: there is no thread, so whoever asks compiles.
    jobs: Option<Sender<Job>>,
}

impl Grammars {
    /// Starts the thread; it ends with the last sender.
    pub fn start() -> Self {
        let cache = Arc::new(GrammarCache::default());
        let (jobs, inbox) = channel();
        let of_thread = Arc::clone(&cache);
        let thread = thread::Builder::new()
            .name("grammars".into())
            .spawn(move || compile_all(&of_thread, &inbox));
        let jobs = match thread {
            Ok(_) => Some(jobs),
            Err(error) => {
                warn!(%error, "no thread for grammars, so requests compile their own");
                None
            }
        };
        Self { cache, jobs }
    }

    /// The grammar of `source`; if it is not known yet this blocks until it is compiled.
    ///
    /// # Errors
    /// As [`Grammar::compile`].
    pub fn get(&self, source: &GrammarSource) -> Answer {
        if let Some(grammar) = self.cache.find(source) {
            return Ok((grammar, Compiled::Cached));
        }
        let (answer, answered) = sync_channel(1);
        let job = Job {
            source: source.clone(),
            answer,
        };
        let sent = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.send(job).is_ok());
        let answered = if sent { answered.recv().ok() } else { None };
        answered.unwrap_or_else(|| self.cache.get(source))
    }
}

fn compile_all(cache: &GrammarCache, inbox: &Receiver<Job>) {
    // Of this thread alone, which is so on Linux and nowhere else.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICENESS) {
        warn!(%error, "grammars are compiled at the priority of everything else");
    }
    for Job { source, answer } in inbox {
        // Whoever asked may have gone.
        let _ = answer.send(cache.get(&source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_ask_at_once_and_each_is_answered() {
        let grammars = Grammars::start();
        thread::scope(|scope| {
            for asker in 0..8 {
                let grammars = &grammars;
                scope.spawn(move || {
                    for text in 0..10 {
                        let source = GrammarSource::Choice(vec![format!("{}", text * (asker % 2))]);
                        grammars.get(&source).unwrap();
                    }
                });
            }
        });
        let known = GrammarSource::Choice(vec!["9".into()]);
        assert_eq!(grammars.get(&known).unwrap().1, Compiled::Cached);
        assert!(grammars.get(&GrammarSource::Regex("(".into())).is_err());
        assert!(grammars.get(&GrammarSource::Regex("(".into())).is_err());
    }

    #[test]
    fn without_its_thread_a_grammar_is_compiled_all_the_same() {
        let grammars = Grammars {
            cache: Arc::default(),
            jobs: None,
        };
        let source = GrammarSource::JsonObject;
        assert_eq!(grammars.get(&source).unwrap().1, Compiled::Now);
        assert_eq!(grammars.get(&source).unwrap().1, Compiled::Cached);
    }
}
