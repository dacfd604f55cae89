//! A URL that webhooks are posted to, as far as it can be judged by looking at it. Which addresses a name has is seen when
//! it is connected to (`poster`).

use std::net::IpAddr;

use url::{Host, Url};

use super::network::{Network, is_public};

/// Ports below 1024 that are the web's. What else listens there is not to be talked to by strangers.
const WEB_PORTS: [u16; 2] = [80, 443];
/// Below it ports are the system's.
const SYSTEM_PORTS: u16 = 1024;

/// Which URLs are posted to.
#[derive(Debug)]
pub struct Rules {
    allow: Vec<Network>,
}

/// Where a webhook goes.
#[derive(Debug)]
pub struct Target {
    pub url: Url,
    /// The host as it is written in a URL: what a log says, and what receivers are told apart by.
    pub host: String,
    /// Without TLS: for addresses that are allowed by name alone.
    pub is_open: bool,
}

impl Rules {
    /// Addresses in `allow` are posted to although they are not public.
    pub fn new(allow: &[Network]) -> Self {
        Self { allow: allow.into() }
    }

    /// Where a URL leads.
    ///
    /// # Errors
    /// Why nothing is posted there, without the URL in it.
    pub fn target(&self, text: &str) -> Result<Target, String> {
        let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
        let is_open = match url.scheme() {
            "https" => false,
            "http" => true,
            scheme => {
                let shown: String = scheme.chars().take(20).collect();
                return Err(format!("must begin with https://, and begins with {shown}:"));
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must name no user and no password: webhooks are signed instead".into());
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if port < SYSTEM_PORTS && !WEB_PORTS.contains(&port) {
            return Err(format!(
                "port {port} is not posted to; 80, 443 and those from {SYSTEM_PORTS} on are"
            ));
        }
        if is_open && self.allow.is_empty() {
            return Err("must begin with https:// (http is for addresses that --webhook-allow names)".into());
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return Err("names no host".into()),
        };
        if let Some(address) = address {
            may_be_reached(address, &self.allow, is_open)?;
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        Ok(Target { url, host, is_open })
    }
}

/// Whether an address may be connected to.
///
/// # Errors
/// Why not.
pub fn may_be_reached(address: IpAddr, allow: &[Network], is_open: bool) -> Result<(), String> {
    if allow.iter().any(|network| network.has(address)) {
        return Ok(());
    }
    match (is_public(address), is_open) {
        (true, false) => Ok(()),
        (true, true) => Err("http is for addresses that --webhook-allow names; use https".into()),
        (false, _) => {
            Err("leads to an address that is not public, and that --webhook-allow does not name".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(allow: &[&str], text: &str) -> Option<String> {
        let allow: Vec<Network> = allow.iter().map(|network| network.parse().unwrap()).collect();
        Rules::new(&allow).target(text).err()
    }

    #[test]
    fn a_url_that_nobody_may_post_to_is_told_by_what_is_wrong_with_it() {
        for (text, says) in [
            ("", "is no URL"),
            ("me.example/hook", "is no URL"),
            ("ftp://me.example/", "must begin with https://, and begins with ftp:"),
            ("file:///etc/passwd", "begins with file:"),
            ("http://me.example/", "must begin with https://"),
            ("https://user@me.example/", "no user"),
            ("https://:secret@me.example/", "no password"),
            ("https://me.example:25/", "port 25"),
            ("https://127.0.0.1/", "not public"),
            ("https://2130706433/", "not public"),
            ("https://0x7f.1/", "not public"),
            ("https://0177.0.0.1/", "not public"),
            ("https://[::1]/", "not public"),
            ("https://[::ffff:10.0.0.1]/", "not public"),
            ("https://169.254.169.254/latest/meta-data/", "not public"),
        ] {
            let reason = refused(&[], text).unwrap_or_else(|| panic!("{text} is taken"));
            assert!(reason.contains(says) && !reason.contains("meta-data"), "{text}: {reason}");
        }
        for text in ["https://me.example/a?token=b#c", "https://1.1.1.1:8443/", "https://[2606:4700::1111]/"]
        {
            assert_eq!(refused(&[], text), None, "{text}");
        }
    }

    #[test]
    fn a_pool_at_home_names_its_own_networks() {
        let home = ["192.168.1.0/24", "::1"];
        for text in ["http://192.168.1.7:8080/", "https://192.168.1.7/", "http://[::1]:9000/", "http://nas/"]
        {
            assert_eq!(refused(&home, text), None, "{text}");
        }
        for (text, says) in [
            ("http://192.168.2.7/", "not public"),
            ("https://127.0.0.1/", "not public"),
            ("http://1.1.1.1/", "use https"),
        ] {
            assert!(refused(&home, text).is_some_and(|reason| reason.contains(says)), "{text}");
        }
    }
}
