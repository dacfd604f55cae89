//! The page at `/`: files that are part of the program, and the headers that keep a browser to them.
//!
//! What the page does is in `files/`: plain modules, one style sheet, no build. It uses queen's endpoints as any client
//! does, so nothing here knows of jobs. The files hold no data and are given to whoever asks, without a token.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::Path,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

use super::routes::Front;
use crate::{
    contract::{ErrorBody, hex},
    http::{
        ApiError,
        endpoint::{Endpoints, described, of, text},
    },
};

/// Scripts, styles and requests from here alone; pictures also from memory. Nothing inline, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Sent with each file.
fn headers() -> [(HeaderName, HeaderValue); 6] {
    let same_origin = HeaderValue::from_static("same-origin");
    [
        // Asked for again each time, and answered with 304: no page of another version talks to this queen.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), same_origin.clone()),
        (HeaderName::from_static("cross-origin-resource-policy"), same_origin),
    ]
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const DRAWING: &str = "image/svg+xml";

/// A file of the page, as it is in the sources.
struct File {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

/// A file as it is sent.
struct Sent {
    text: String,
    /// What a browser knows it by.
    tag: HeaderValue,
}

/// Names every file once, so that its name and its text belong together.
macro_rules! files {
    ($($name:literal: $content_type:expr),* $(,)?) => {
        [$(File {
            name: $name,
            content_type: $content_type,
            text: include_str!(concat!("files/", $name)),
        }),*]
    };
}

/// The page itself; the others are what it asks for.
const PAGE: &str = "index.html";

static FILES: [File; FILE_COUNT] = files! {
    "index.html": HTML,
    "page.css": STYLE,
    "icon.svg": DRAWING,
    "main.js": SCRIPT,
    "api.js": SCRIPT,
    "dom.js": SCRIPT,
    "fleet.js": SCRIPT,
    "form.js": SCRIPT,
    "gallery.js": SCRIPT,
    "jobs.js": SCRIPT,
    "keep.js": SCRIPT,
    "mask.js": SCRIPT,
    "paint.js": SCRIPT,
    "pictures.js": SCRIPT,
    "png.js": SCRIPT,
    "source.js": SCRIPT,
    "stage.js": SCRIPT,
    "stream.js": SCRIPT,
};
const FILE_COUNT: usize = 18;

/// In the order of [`FILES`].
static SENT: LazyLock<[Sent; FILE_COUNT]> = LazyLock::new(|| {
    std::array::from_fn(|index| {
        let text = sent(FILES[index].text);
        let tag = format!("\"{}\"", hex(&Sha256::digest(&text)));
        let tag = HeaderValue::from_str(&tag).expect("hexadecimal digits may be in a header");
        Sent { text, tag }
    })
});

/// What of a file a browser has a use for: no indentation, and no line that is a comment. In these files no text goes over
/// the end of a line, and no code begins one with `* `.
fn sent(text: &str) -> String {
    let is_comment = |line: &str| {
        ["//", "/**", "* ", "*/"].iter().any(|start| line.starts_with(start))
            || (line.starts_with("/*") && line.ends_with("*/"))
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_comment(line));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Whether a path is one of a file of the page, which is given without a token.
pub(super) fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with("/page/")
}

/// GET / and GET /page/{file}.
pub(super) fn endpoints() -> Endpoints<Front> {
    Endpoints::new("Page", of::<ErrorBody>)
        .get(
            "/",
            page,
            described("page", "The page for people.")
                .gives_as(200, "the page", &["text/html"], text)
                .for_all(),
        )
        .get(
            "/page/{file}",
            file,
            described("pageFile", "A file of the page.")
                .path("file", "Its name.", text)
                .gives_as(200, "the file", &["text/css", "text/javascript", "image/svg+xml"], text)
                .errs(&[404])
                .for_all(),
        )
}

/// The same for a queen that has nothing else yet: whoever opens the page while queen starts has it when queen is ready.
pub(super) fn while_it_starts() -> Router {
    Router::new().route("/", get(page)).route("/page/{file}", get(file))
}

async fn page(asked: HeaderMap) -> Response {
    answer(PAGE, &asked)
}

async fn file(Path(name): Path<String>, asked: HeaderMap) -> Response {
    answer(&name, &asked)
}

fn answer(name: &str, asked: &HeaderMap) -> Response {
    let Some(index) = FILES.iter().position(|file| file.name == name) else {
        return ApiError::not_found("the page has no such file").into_response();
    };
    let Sent { text, tag } = &SENT[index];
    let known = asked.get(IF_NONE_MATCH).is_some_and(|known| is_among(known, tag));
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(CONTENT_TYPE, FILES[index].content_type)], text.as_str()).into_response(),
    };
    response.headers_mut().extend(headers());
    response.headers_mut().insert(ETAG, tag.clone());
    response
}

/// Whether a list of tags has this one; a proxy that compresses makes it a weak one.
fn is_among(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let tags = list.to_str().unwrap_or_default().split(',');
    tags.map(|known| known.trim().trim_start_matches("W/")).any(|known| known == "*" || known == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most that a browser is sent for the page, in bytes.
    const MAX_BYTES: usize = 85_000;

    fn asked(name: &str, tag: Option<&str>) -> Response {
        let tag = tag.map(|tag| (IF_NONE_MATCH, tag.parse().unwrap()));
        answer(name, &HeaderMap::from_iter(tag))
    }

    #[test]
    fn the_page_is_small() {
        let bytes: usize = SENT.iter().map(|sent| sent.text.len()).sum();
        assert!(bytes <= MAX_BYTES, "{bytes} bytes");
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/queen/page/files");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut named: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        found.sort();
        named.sort();
        assert_eq!(found, named);
    }

    #[test]
    fn nothing_of_the_page_is_inline_or_from_elsewhere() {
        for file in &FILES {
            for bad in [
                " style=",
                "<style",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!file.text.contains(bad), "{}: {bad}", file.name);
            }
            let elsewhere = file.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{}", file.name);
        }
    }

    #[test]
    fn a_file_is_sent_once_and_with_what_keeps_a_browser_to_it() {
        let first = asked(PAGE, None);
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[CONTENT_TYPE], HTML);
        assert_eq!(first.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(first.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'"));
        let tag = first.headers()[ETAG].to_str().unwrap();
        for known in [tag.to_owned(), format!("W/{tag}"), format!("\"other\", {tag}")] {
            let again = asked(PAGE, Some(&known));
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(again.headers()[ETAG], tag);
        }
        assert_eq!(asked(PAGE, Some("\"other\"")).status(), StatusCode::OK);
        assert_eq!(asked("main.js", None).headers()[CONTENT_TYPE], SCRIPT);
        for missing in ["", "nothing.js", "../mod.rs"] {
            assert_eq!(asked(missing, None).status(), StatusCode::NOT_FOUND, "{missing}");
        }
    }

    #[test]
    fn what_is_sent_is_the_code_alone() {
        let text = "// A file.\n\n/** Adds. */\nfunction add(a) {\n  // One.\n  return a\n    + 1; // or two\n}\n/**\n * More.\n */\n";
        assert_eq!(sent(text), "function add(a) {\nreturn a\n+ 1; // or two\n}\n");
        assert_eq!(sent("/* Rows. */\n*{margin:0}\n"), "*{margin:0}\n");
    }

    #[test]
    fn what_is_given_without_a_token_is_the_page_alone() {
        for path in ["/", "/page/main.js", "/page/"] {
            assert!(is_page(path), "{path}");
        }
        for path in ["", "//", "/page", "/v1/jobs", "/v1/workers", "/pages/a"] {
            assert!(!is_page(path), "{path}");
        }
    }
}
