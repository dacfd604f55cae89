use image::{GrayImage, RgbImage};

use super::*;

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
