//! The texts of a PNG, and what the one says that A1111 and we write into it.

use std::io::Cursor;

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use serde_json::{Map, Value, json};

use super::A1111;
use crate::{
    contract::{ContractError, inline},
    http::ApiError,
    queen::{auth::Client, foreign::refusal::field},
};

/// The text that A1111 and its readers know.
const PARAMETERS: &str = "parameters";
/// What the texts of a PNG may unfold to, in bytes.
const MAX_TEXTS: usize = 4 << 20;
/// What a line with parameters begins with.
const FIRST: &str = "Steps: ";
/// What the negative prompt begins with.
const NEGATIVE: &str = "Negative prompt: ";

/// POST /sdapi/v1/png-info.
pub(super) async fn info(
    State(door): State<A1111>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (mut fields, _) = door.foreign.read(request, &[]).await?;
    let Some(image) = fields.text("image")? else { return Err(field("image", "is missing")) };
    let most = door.foreign.queen.shared.options.max_input;
    let read = move || {
        let said = |source| ContractError::Image { field: "image".into(), source };
        let base64 = inline::base64_of(&image).map_err(said)?;
        let bytes = inline::check(base64).map_err(said)?;
        if bytes > most {
            return Err(ContractError::TooLarge { field: "image".into(), bytes, limit: most }.into());
        }
        Ok(texts(&inline::decode(base64).map_err(said)?))
    };
    let items = door.foreign.workbench.run(&client, read).await?;
    let text = items.get(PARAMETERS).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Json(json!({"info": text, "items": items, "parameters": parsed(&text)})))
}

/// The infotext of a PNG, of which the beginning is enough.
pub(super) fn infotext(beginning: &[u8]) -> Option<String> {
    texts(beginning).remove(PARAMETERS)?.as_str().map(str::to_owned)
}

/// The texts that stand before the pixels; none of what is no PNG.
fn texts(bytes: &[u8]) -> Map<String, Value> {
    let limits = png::Limits { bytes: MAX_TEXTS };
    let Ok(reader) = png::Decoder::new_with_limits(Cursor::new(bytes), limits).read_info() else {
        return Map::new();
    };
    let info = reader.info();
    let mut texts = Map::new();
    for text in &info.uncompressed_latin1_text {
        texts.insert(text.keyword.clone(), text.text.clone().into());
    }
    // All of them together: a file has room for many.
    let mut left = MAX_TEXTS;
    for text in &info.compressed_latin1_text {
        let mut text = text.clone();
        if text.decompress_text_with_limit(left).is_ok()
            && let Ok(unfolded) = text.get_text()
        {
            left = left.saturating_sub(unfolded.len());
            texts.insert(text.keyword, unfolded.into());
        }
    }
    for text in &info.utf8_text {
        let mut text = text.clone();
        if text.decompress_text_with_limit(left).is_ok()
            && let Ok(unfolded) = text.get_text()
        {
            left = left.saturating_sub(unfolded.len());
            texts.insert(text.keyword, unfolded.into());
        }
    }
    texts
}

/// What an infotext says, by A1111's names (modules/infotext_utils.py): `Prompt`, `Negative prompt`, and the pairs of its
/// last line.
pub(super) fn parsed(text: &str) -> Map<String, Value> {
    let mut said = Map::new();
    if text.is_empty() {
        return said;
    }
    let (words, line) = match text.rsplit_once('\n') {
        Some((words, line)) if line.starts_with(FIRST) => (words, line),
        _ if text.starts_with(FIRST) => ("", text),
        _ => (text, ""),
    };
    let marked = format!("\n{NEGATIVE}");
    let (prompt, negative) = match words.split_once(&marked) {
        Some(both) => both,
        None => words.strip_prefix(NEGATIVE).map_or((words, ""), |negative| ("", negative)),
    };
    said.insert("Prompt".into(), prompt.into());
    said.insert("Negative prompt".into(), negative.into());
    let mut rest = line;
    while let Some((key, behind)) = rest.split_once(": ") {
        let (value, after) = value_of(behind);
        let key = key.trim().to_owned();
        if let Some((width, height)) = value.split_once('x').filter(|_| key == "Size") {
            said.insert("Size-1".into(), width.into());
            said.insert("Size-2".into(), height.into());
        }
        said.insert(key, value.into());
        rest = after;
    }
    said
}

/// A value, which is a JSON string where it has separators, and what is behind it.
fn value_of(text: &str) -> (String, &str) {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    if text.starts_with('"')
        && let Some(Ok(value)) = strings.next()
    {
        let behind = &text[strings.byte_offset()..];
        return (value, behind.strip_prefix(',').unwrap_or(behind));
    }
    let (value, behind) = text.split_once(',').unwrap_or((text, ""));
    (value.trim().to_owned(), behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a \"b\": c\nd <lora:ink:0.5>\nNegative prompt: fog,\nSteps: no\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, \
                        CFG scale: 7.5, Seed: 7, Size: 64x72, Model: \"org: \\\"a\\\", b\", Clip skip: 2";

    fn file(write: impl FnOnce(&mut png::Encoder<'_, &mut Vec<u8>>)) -> Vec<u8> {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        write(&mut encoder);
        encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
        bytes
    }

    #[test]
    fn an_infotext_says_its_pairs() {
        let said = parsed(TEXT);
        for (key, value) in [
            ("Prompt", "a \"b\": c\nd <lora:ink:0.5>"),
            ("Negative prompt", "fog,\nSteps: no"),
            ("Steps", "20"),
            ("Sampler", "DPM++ 2M"),
            ("Schedule type", "Karras"),
            ("CFG scale", "7.5"),
            ("Size", "64x72"),
            ("Size-1", "64"),
            ("Model", "org: \"a\", b"),
            ("Clip skip", "2"),
        ] {
            assert_eq!(said.get(key).and_then(Value::as_str), Some(value), "{key}: {said:?}");
        }
        assert!(parsed("").is_empty());
        assert_eq!(parsed("only words")["Prompt"], "only words");
        assert_eq!(parsed("Steps: 3, Seed: 1")["Seed"], "1");
    }

    #[test]
    fn the_texts_of_a_png_are_read_from_its_beginning() {
        let latin = file(|encoder| encoder.add_text_chunk("parameters".into(), "a".into()).unwrap());
        let utf8 = file(|encoder| {
            encoder.add_itxt_chunk("parameters".into(), "円".into()).unwrap();
            encoder.add_ztxt_chunk("Comment".into(), "packed".into()).unwrap();
        });
        assert_eq!(infotext(&latin).as_deref(), Some("a"));
        let end = utf8.windows(4).position(|four| four == b"IDAT").unwrap() + 8;
        assert_eq!(infotext(&utf8[..end]).as_deref(), Some("円"));
        assert_eq!(texts(&utf8)["Comment"], "packed");
        for nothing in [&b""[..], b"no PNG", &latin[..20]] {
            assert!(texts(nothing).is_empty());
        }
    }

    #[test]
    fn a_text_that_unfolds_to_gigabytes_is_left_out() {
        let bomb = file(|encoder| encoder.add_ztxt_chunk("parameters".into(), "a".repeat(64 << 20)).unwrap());
        assert!(bomb.len() < 1 << 20);
        assert!(infotext(&bomb).is_none());
        let many = file(|encoder| {
            for number in 0..8 {
                encoder.add_ztxt_chunk(format!("text {number}"), "a".repeat(1 << 20)).unwrap();
            }
        });
        let unfolded: usize = texts(&many).values().map(|text| text.as_str().unwrap().len()).sum();
        assert!((1 << 20..=MAX_TEXTS).contains(&unfolded), "{unfolded}");
    }
}
