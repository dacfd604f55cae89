//! The way into the engine. The channel is unbounded; what enters it is bounded by slots, for a request carries its permit.

use tokio::sync::mpsc;

use super::GenerationRequest;

/// The end that handlers hold; cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestQueue {
    sender: mpsc::UnboundedSender<GenerationRequest>,
}

/// The end that the engine owns.
#[derive(Debug)]
pub struct RequestReceiver {
    receiver: mpsc::UnboundedReceiver<GenerationRequest>,
}

/// The engine has ended and takes nothing more; the request comes back.
#[derive(Debug, thiserror::Error)]
#[error("the engine has ended")]
pub struct EngineGone(pub Box<GenerationRequest>);

/// What a look at the queue found.
pub(super) enum Next {
    Request(Box<GenerationRequest>),
    Empty,
    /// Every queue was dropped.
    Closed,
}

impl RequestQueue {
    /// A queue and the receiver for [`GenerationEngine::new`](super::GenerationEngine::new).
    pub fn new() -> (Self, RequestReceiver) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender }, RequestReceiver { receiver })
    }

    /// Hands a request to the engine.
    ///
    /// # Errors
    /// [`EngineGone`] with the request when the engine has ended.
    pub fn add(&self, request: GenerationRequest) -> Result<(), EngineGone> {
        self.sender.send(request).map_err(|back| EngineGone(Box::new(back.0)))
    }
}

impl RequestReceiver {
    /// Waits for a request; `None` when every queue was dropped. Not for async contexts.
    pub(super) fn wait(&mut self) -> Option<GenerationRequest> {
        self.receiver.blocking_recv()
    }

    pub(super) fn look(&mut self) -> Next {
        match self.receiver.try_recv() {
            Ok(request) => Next::Request(Box::new(request)),
            Err(mpsc::error::TryRecvError::Empty) => Next::Empty,
            Err(mpsc::error::TryRecvError::Disconnected) => Next::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::tests::request;

    #[test]
    fn requests_come_out_in_the_order_they_went_in() {
        let (queue, mut receiver) = RequestQueue::new();
        for seed in 0..3 {
            queue.add(request(seed).0).unwrap();
        }
        let seeds: Vec<u64> = (0..3).map(|_| receiver.wait().unwrap().spec.seed).collect();
        assert_eq!(seeds, [0, 1, 2]);
        assert!(matches!(receiver.look(), Next::Empty));
    }

    #[test]
    fn a_dropped_queue_closes_the_receiver_after_what_it_held() {
        let (queue, mut receiver) = RequestQueue::new();
        queue.clone().add(request(7).0).unwrap();
        drop(queue);
        assert!(matches!(receiver.look(), Next::Request(_)));
        assert!(matches!(receiver.look(), Next::Closed));
        assert!(receiver.wait().is_none());
    }

    #[test]
    fn a_request_for_an_engine_that_has_ended_comes_back() {
        let (queue, receiver) = RequestQueue::new();
        drop(receiver);
        let EngineGone(back) = queue.add(request(9).0).unwrap_err();
        assert_eq!(back.spec.seed, 9);
    }

    #[test]
    fn a_request_holds_its_slot_while_it_waits() {
        let (queue, mut receiver) = RequestQueue::new();
        let (request, slots) = request(1);
        queue.add(request).unwrap();
        assert_eq!(slots.available_permits(), 0);
        drop(receiver.wait());
        assert_eq!(slots.available_permits(), 1);
    }
}
