use image::{GrayImage, RgbImage};

use super::*;
use crate::{
    contract::{Capability, JobId, Operation},
    worker::testing::worker,
};

#[tokio::test]
async fn megabytes_of_base64_are_decoded_where_they_hold_up_nobody() {
    let store = Store::open(&crate::storage::StoreOptions::new("memory://")).unwrap();
    let (input, limits) = (ImageInput::Inline("!".repeat(1 << 20)), Limits::default());
    let mut warnings = vec![];
    let mut decoding = Box::pin(read("init_image", &input, &store, &limits, &mut warnings, read_picture));
    let at_once = futures::FutureExt::now_or_never(&mut decoding);
    assert!(at_once.is_none(), "this thread goes on with other work");
    let error = decoding.await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ImageInvalid);
    assert!(error.to_string().starts_with("`init_image`: it is not base64: character 1 is '!'"), "{error}");
}

#[tokio::test]
async fn a_decoder_that_panics_is_an_invalid_picture_and_no_defect_that_is_tried_again() {
    let store = Store::open(&crate::storage::StoreOptions::new("memory://")).unwrap();
    let (input, limits) = (ImageInput::Inline("AAAA".into()), Limits::default());
    let reader: Reader<RgbImage> = |_, _, _, _| panic!("a defect of a decoder");
    let error = read("init_image", &input, &store, &limits, &mut vec![], reader).await.unwrap_err();
    assert_eq!((error.code(), error.code().retryable()), (ErrorCode::ImageInvalid, false));
}

#[tokio::test]
async fn a_later_attempt_takes_the_mask_that_an_earlier_one_has_stored_if_it_is_of_this_picture() {
    let context = worker("sim://?step_ms=0&size=64", 1).context;
    let body = r#"{"prompt":"a","job_id":"j","init_image":"AAAA","mask_points":[[1,1]]}"#;
    let operation = Operation::parse(Some(Capability::Inpaint), body.as_bytes()).unwrap();
    let JobSource::Inpaint { mask: MaskSource::Pointing(pointing), .. } =
        Job::new(operation, &Limits::default()).unwrap().source
    else {
        unreachable!()
    };
    let id = JobId::new("j").unwrap();
    let ask = async |attempt| pointed(&context, &id, RgbImage::new(64, 80), &pointing, attempt).await;
    // There is no segmenter here: what is not stored is not made.
    let refused = ask(2).await.unwrap_err();
    assert!(matches!(refused, InputError::NoSegmenter { field: "mask_points" }), "{refused}");
    let mask = GrayImage::from_fn(64, 80, |x, _| image::Luma([if x < 32 { 255 } else { 0 }]));
    let store = async |mask: &GrayImage| {
        let mut file = std::io::Cursor::new(vec![]);
        mask.write_to(&mut file, image::ImageFormat::Png).unwrap();
        let key = Key::Mask { job: id.clone() };
        context.store.put(&key, file.into_inner().into(), "image/png").await.unwrap();
    };
    store(&mask).await;
    let (_, kept, told) = ask(2).await.unwrap();
    assert_eq!((kept, told.key.as_str()), (mask.clone(), "jobs/j/mask.png"));
    assert!(matches!(ask(1).await, Err(InputError::NoSegmenter { .. })), "the first attempt makes its own");
    store(&GrayImage::new(80, 64)).await;
    assert!(matches!(ask(2).await, Err(InputError::NoSegmenter { .. })), "it is of another picture");
}

#[test]
fn a_mask_of_another_size_is_resized_and_said() {
    let mut warnings = vec![];
    let mask = GrayImage::from_fn(64, 64, |x, _| image::Luma([if x < 32 { 255 } else { 0 }]));
    let mask = mask::fit_mask(mask, &RgbImage::new(128, 96), &mut warnings);
    assert_eq!(mask.dimensions(), (128, 96));
    assert!(mask.pixels().all(|p| matches!(p.0[0], 0 | 255)));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("64x64 to 128x96"), "{}", warnings[0]);
}
