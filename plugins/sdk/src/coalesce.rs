//! Small reads that come while others are under way, asked in one request.
//!
//! Most of what a small read costs, here and at the server, is its request. So only a few are sent by
//! themselves; what is asked while these are under way waits for the first of them to be answered, and
//! goes out together. Whoever reads alone waits for nobody.

use crate::runtime::spawn;
use futures::channel::oneshot;
use futures::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// When questions are asked together, and how many of them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests under way before a question waits for the others.
    pub under_way: usize,
    /// Most questions in one request.
    pub questions: usize,
    /// Bytes of the answers to one request, as far as those before it let guess.
    pub answer_bytes: usize,
}

/// Why a request for several has answered none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// They were too many, or their answers too large. The next request asks for one.
    TooMuch,
    /// For another reason.
    Otherwise,
}

/// Asks several questions in one request, and answers each in their order.
type Together<Q, A> = Box<dyn Fn(Vec<Q>) -> LocalBoxFuture<'static, Result<Vec<A>, Failed>>>;

/// Asks questions of one server: each by itself, or several together. Clones share it.
///
/// Make one for each connection: what is stuck on one holds back no question to another.
pub struct Coalescer<Q, A> {
    shared: Rc<Shared<Q, A>>,
}

struct Shared<Q, A> {
    limits: Limits,
    together: Together<Q, A>,
    weigh: fn(&A) -> usize,
    under_way: Cell<usize>,
    waiting: RefCell<VecDeque<Waiting<Q, A>>>,
    /// Bytes of the largest answer of late.
    largest: Cell<usize>,
}

struct Waiting<Q, A> {
    question: Q,
    asker: oneshot::Sender<A>,
}

impl<Q, A> Clone for Coalescer<Q, A> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<Q: Clone + 'static, A: 'static> Coalescer<Q, A> {
    /// `weigh` tells the bytes of an answer; `together` asks several questions in one request, and
    /// answers them in their order.
    pub fn new<F>(limits: Limits, weigh: fn(&A) -> usize, together: F) -> Self
    where
        F: Fn(Vec<Q>) -> LocalBoxFuture<'static, Result<Vec<A>, Failed>> + 'static,
    {
        let shared = Shared {
            limits,
            together: Box::new(together),
            weigh,
            under_way: Cell::new(0),
            waiting: RefCell::default(),
            // Nothing is known yet.
            largest: Cell::new(limits.answer_bytes),
        };
        Self { shared: Rc::new(shared) }
    }

    /// Answers `question`: by itself as `alone` does, or together with others. When the request for
    /// several fails, each of them is asked alone, which may succeed, and else tells why it does not.
    ///
    /// # Errors
    ///
    /// Those of `alone`.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives the question up.
    pub async fn ask<E>(
        &self,
        question: Q,
        alone: impl AsyncFnOnce(Q) -> Result<A, E>,
    ) -> Result<A, E> {
        if let Some(answer) = self.shared.queue(&question)
            && let Ok(answer) = answer.await
        {
            return Ok(answer);
        }
        let place = Place::of(&self.shared);
        let answer = alone(question).await?;
        self.shared.note((self.shared.weigh)(&answer));
        drop(place);
        Ok(answer)
    }
}

impl<Q: Clone + 'static, A: 'static> Shared<Q, A> {
    /// Puts a question behind those that wait, if it has to.
    fn queue(&self, question: &Q) -> Option<oneshot::Receiver<A>> {
        if self.under_way.get() < self.limits.under_way {
            return None;
        }
        let (asker, answer) = oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        // Those that were given up while nothing moves are not kept.
        while waiting.pop_front_if(|first| first.asker.is_canceled()).is_some() {}
        waiting.push_back(Waiting { question: question.clone(), asker });
        Some(answer)
    }

    /// Asks what waits, as long as there is a place for another request.
    fn serve(self: &Rc<Self>) {
        while self.under_way.get() < self.limits.under_way {
            let batch = self.batch();
            if batch.is_empty() {
                return;
            }
            let place = Place::of(self);
            spawn(async move { place.0.ask_together(batch).await }).detach();
        }
    }

    /// The next questions that somebody still wants answered.
    fn batch(&self) -> Vec<Waiting<Q, A>> {
        let fitting = self.limits.answer_bytes / self.largest.get().max(1);
        let most = fitting.clamp(1, self.limits.questions.max(1));
        let mut waiting = self.waiting.borrow_mut();
        let wanted = std::iter::from_fn(|| waiting.pop_front());
        wanted.filter(|waiting| !waiting.asker.is_canceled()).take(most).collect()
    }

    async fn ask_together(&self, batch: Vec<Waiting<Q, A>>) {
        let (questions, askers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.question, waiting.asker)).unzip();
        let answers = match (self.together)(questions).await {
            Ok(answers) => answers,
            Err(Failed::TooMuch) => return self.note(self.limits.answer_bytes),
            Err(Failed::Otherwise) => return,
        };
        self.note(answers.iter().map(self.weigh).max().unwrap_or(0));
        for (asker, answer) in askers.into_iter().zip(answers) {
            // Who has given up meanwhile needs no answer.
            let _ = asker.send(answer);
        }
    }

    fn note(&self, bytes: usize) {
        self.largest.set(bytes.max(self.largest.get() / 2));
    }
}

/// One request under way. The next goes out when it is dropped.
struct Place<Q: Clone + 'static, A: 'static>(Rc<Shared<Q, A>>);

impl<Q: Clone + 'static, A: 'static> Place<Q, A> {
    fn of(shared: &Rc<Shared<Q, A>>) -> Self {
        shared.under_way.set(shared.under_way.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl<Q: Clone + 'static, A: 'static> Drop for Place<Q, A> {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        self.0.serve();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;
    use crate::time::{sleep, timeout};
    use futures::future::{join, join_all};
    use std::time::Duration;

    const LIMITS: Limits = Limits { under_way: 2, questions: 10, answer_bytes: 100 };
    const TRIP: Duration = Duration::from_millis(10);

    /// A server that answers `n` with `n` bytes, and keeps what it was asked.
    #[derive(Clone, Default)]
    struct Server {
        asked: Rc<RefCell<Vec<Vec<usize>>>>,
        refuses_many: bool,
    }

    impl Server {
        /// Whose answers have been small so far.
        fn coalescer(&self) -> Coalescer<usize, usize> {
            let coalescer = self.fresh_coalescer();
            coalescer.shared.largest.set(0);
            coalescer
        }

        fn fresh_coalescer(&self) -> Coalescer<usize, usize> {
            let server = self.clone();
            Coalescer::new(
                LIMITS,
                |bytes| *bytes,
                move |questions| {
                    let server = server.clone();
                    Box::pin(async move {
                        let answers = server.answer(&questions).await;
                        if server.refuses_many { Err(Failed::Otherwise) } else { Ok(answers) }
                    })
                },
            )
        }

        async fn answer(&self, questions: &[usize]) -> Vec<usize> {
            self.asked.borrow_mut().push(questions.to_vec());
            sleep(TRIP).await;
            questions.to_vec()
        }

        async fn ask(&self, coalescer: &Coalescer<usize, usize>, question: usize) -> usize {
            let alone = async |question| {
                let answers = self.answer(&[question]).await;
                answers.first().copied().ok_or("no answer")
            };
            coalescer.ask(question, alone).await.unwrap()
        }

        fn asked(&self) -> Vec<Vec<usize>> {
            self.asked.take()
        }
    }

    async fn ask_all(server: &Server, coalescer: &Coalescer<usize, usize>, questions: &[usize]) {
        let asked = questions.iter().map(|question| server.ask(coalescer, *question));
        assert_eq!(join_all(asked).await, questions);
    }

    #[test]
    fn what_comes_while_others_are_under_way_is_asked_together() {
        run(async {
            let server = Server::default();
            let coalescer = server.coalescer();
            ask_all(&server, &coalescer, &[1, 2, 3, 4, 5]).await;
            assert_eq!(server.asked(), [vec![1], vec![2], vec![3, 4, 5]]);
            ask_all(&server, &coalescer, &[6]).await;
            ask_all(&server, &coalescer, &[7, 8]).await;
            assert_eq!(server.asked(), [vec![6], vec![7], vec![8]], "a few do not wait");
        });
    }

    #[test]
    fn large_answers_are_asked_for_in_small_numbers() {
        run(async {
            let server = Server::default();
            let coalescer = server.coalescer();
            ask_all(&server, &coalescer, &[50, 1, 2, 3, 4, 5]).await;
            assert_eq!(server.asked(), [vec![50], vec![1], vec![2, 3], vec![4, 5]]);
            // What was large is forgotten by and by.
            ask_all(&server, &coalescer, &[1, 2, 3, 4, 5, 6, 7, 8]).await;
            assert_eq!(server.asked().last(), Some(&vec![3, 4, 5, 6, 7, 8]));
        });
    }

    #[test]
    fn how_many_are_asked_together_grows_with_what_is_known_of_their_size() {
        run(async {
            let server = Server::default();
            ask_all(&server, &server.fresh_coalescer(), &[1; 20]).await;
            let together: Vec<_> = server.asked().iter().map(Vec::len).collect();
            assert_eq!(together, [1, 1, 2, 4, 8, 4]);
        });
    }

    #[test]
    fn what_fails_together_is_asked_alone() {
        run(async {
            let server = Server { refuses_many: true, ..Server::default() };
            let coalescer = server.coalescer();
            ask_all(&server, &coalescer, &[1, 2, 3, 4]).await;
            assert_eq!(server.asked(), [vec![1], vec![2], vec![3, 4], vec![3], vec![4]]);
        });
    }

    #[test]
    fn what_was_given_up_is_not_asked_and_holds_up_nobody() {
        run(async {
            let server = Server::default();
            let coalescer = server.coalescer();
            let given_up = [(1, TRIP / 2), (2, TRIP / 2), (3, TRIP / 4)]
                .map(|(question, patience)| timeout(patience, server.ask(&coalescer, question)));
            let late = async {
                sleep(TRIP / 3).await;
                server.ask(&coalescer, 4).await
            };
            let (given_up, answer) = join(join_all(given_up), late).await;
            assert!(given_up.iter().all(Result::is_err));
            assert_eq!(answer, 4);
            assert_eq!(server.asked(), [vec![1], vec![2], vec![4]]);
        });
    }
}
