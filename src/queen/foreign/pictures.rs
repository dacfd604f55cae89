//! Pictures that other APIs send, as jobs take them: resized to what was asked for, masks turned into ours. Reading a
//! stranger's file takes a while and much memory, so it is done on threads that nobody waits for, under the limits that
//! workers have, one file of a client at a time and so many of all.

use std::{
    collections::HashMap,
    io::Cursor,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::available_parallelism,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{DynamicImage, ImageFormat, imageops};
use tokio::sync::Semaphore;

use crate::{
    contract::{ErrorCode, limits::MAX_SIDE},
    decoding::PictureError,
    http::ApiError,
    queen::{auth::Client, busy},
};

/// Pixels of a picture at most.
pub(super) const MAX_PIXELS: u64 = MAX_SIDE as u64 * MAX_SIDE as u64;
/// Requests that may wait for their pictures to be read, each with its body.
const MAX_QUEUED: usize = 32;
/// Clients that are remembered before those that wait for nothing are forgotten.
const TIDY_FROM: usize = 1000;

/// Where pictures are worked on. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub(super) struct Workbench {
    queue: Arc<Semaphore>,
    places: Arc<Semaphore>,
    clients: Arc<Mutex<HashMap<Client, Weak<Semaphore>>>>,
}

impl Workbench {
    /// With a place for each processor.
    pub fn new() -> Self {
        Self::with(available_parallelism().map_or(1, usize::from))
    }

    fn with(places: usize) -> Self {
        Self {
            queue: Arc::new(Semaphore::new(MAX_QUEUED)),
            places: Arc::new(Semaphore::new(places)),
            clients: Arc::default(),
        }
    }

    /// Does a client's work when it is its turn. Work that panics shows a defect of a decoder, which its picture would
    /// show anywhere.
    ///
    /// # Errors
    /// What the work says, `image_invalid` when it panics, or `busy` while as many wait as may.
    pub async fn run<T: Send + 'static>(
        &self,
        client: &Client,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let queued = self
            .queue
            .clone()
            .try_acquire_owned()
            .map_err(|_| busy("pictures of other requests wait to be read, as many as may"))?;
        let own = self.of(client);
        let lost = |error: &dyn std::fmt::Display| ApiError::new(ErrorCode::Internal, error.to_string());
        let turn = own.acquire_owned().await.map_err(|closed| lost(&closed))?;
        let place = self.places.clone().acquire_owned().await.map_err(|closed| lost(&closed))?;
        // What has been begun is done to its end, also when its client has left: it keeps its place for as long.
        let done = tokio::task::spawn_blocking(move || {
            let _held = (queued, turn, place);
            work()
        });
        done.await.map_err(|error| match error.is_panic() {
            true => ApiError::new(ErrorCode::ImageInvalid, "`image`: the decoder failed at it"),
            false => lost(&error),
        })?
    }

    /// The one place of a client.
    fn of(&self, client: &Client) -> Arc<Semaphore> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = clients.get(client).and_then(Weak::upgrade) {
            return own;
        }
        if clients.len() >= TIDY_FROM {
            clients.retain(|_, own| own.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(1));
        clients.insert(client.clone(), Arc::downgrade(&own));
        own
    }
}

impl From<PictureError> for ApiError {
    fn from(error: PictureError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// A picture in this size: what does not fit into its shape is cut off, half on each side.
pub(super) fn filled(picture: &DynamicImage, (width, height): (u32, u32)) -> DynamicImage {
    if (picture.width(), picture.height()) == (width, height) {
        return picture.clone();
    }
    picture.resize_to_fill(width, height, imageops::FilterType::Lanczos3)
}

/// A picture as a job takes it: a PNG in base64.
///
/// # Errors
/// It cannot be encoded.
pub(super) fn inline(picture: &DynamicImage) -> Result<String, ApiError> {
    let mut bytes = Cursor::new(vec![]);
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("a PNG cannot be written: {error}")))?;
    Ok(STANDARD.encode(bytes.into_inner()))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use image::{Rgb, RgbImage};

    use super::*;

    fn client(number: u32) -> Client {
        Client::At(std::net::Ipv4Addr::from_bits(number).into())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_has_one_file_read_at_a_time_and_no_other_waits_for_that() {
        let bench = Workbench::with(2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let slow = || {
            let (running, most) = (running.clone(), most.clone());
            move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        };
        let (a, b) = (client(1), client(2));
        let own = futures::future::join_all((0..3).map(|_| bench.run(&a, slow())));
        assert!(own.await.into_iter().all(|done| done.is_ok()));
        assert_eq!(most.load(Ordering::SeqCst), 1);
        let (first, second) = tokio::join!(bench.run(&a, slow()), bench.run(&b, slow()));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(most.load(Ordering::SeqCst), 2);
        let error = bench.run::<()>(&a, || panic!("a defect")).await.unwrap_err();
        assert_eq!((error.code, error.status), (ErrorCode::ImageInvalid, 400));
        assert!(bench.run(&a, || Ok(())).await.is_ok(), "its place is free again");
    }

    #[tokio::test]
    async fn so_many_wait_and_others_are_told_to_come_again() {
        let bench = Workbench::with(1);
        let _all = bench.queue.clone().try_acquire_many_owned(MAX_QUEUED as u32).unwrap();
        let error = bench.run(&client(1), || Ok(())).await.unwrap_err();
        assert_eq!((error.status, error.retry_after.is_some()), (503, true));
    }

    #[test]
    fn clients_that_wait_for_nothing_are_forgotten() {
        let bench = Workbench::new();
        let held = bench.of(&client(0));
        for number in 1..5000 {
            bench.of(&client(number));
        }
        assert!(bench.clients.lock().unwrap().len() <= TIDY_FROM);
        assert!(Arc::ptr_eq(&held, &bench.of(&client(0))));
    }

    #[test]
    fn a_picture_of_another_shape_keeps_its_middle() {
        let wide =
            RgbImage::from_fn(
                192,
                64,
                |x, _| if (64..128).contains(&x) { Rgb([250; 3]) } else { Rgb([9; 3]) },
            );
        let square = filled(&wide.into(), (64, 64)).into_rgb8();
        assert_eq!(square.dimensions(), (64, 64));
        assert!(square.pixels().all(|pixel| pixel.0[0] > 200), "only the middle is left");
    }
}
