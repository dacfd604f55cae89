//! A1111's samplers and schedulers (modules/sd_samplers*.py, sd_schedulers.py), and the schedulers of jobs that do the same.
//!
//! Its scheduler `automatic` is not plain: DPM++ 2M means Karras by it, and DPM++ 2M SDE exponential. DDIM, PLMS and UniPC
//! have timesteps of their own there, and look at no scheduler.

use serde_json::{Value, json};

use crate::{contract::SCHEDULERS, http::ApiError, queen::foreign::refusal::field};

/// A sampler of A1111.
struct Sampler {
    name: &'static str,
    /// What else clients call it.
    aliases: &'static [&'static str],
    /// Ours, with sigmas spread as the checkpoint says.
    ours: &'static str,
    /// What `automatic` means.
    automatic: Spread,
    /// It looks at no scheduler.
    is_fixed: bool,
}

/// How sigmas are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spread {
    Plain,
    Karras,
    Exponential,
}

impl Spread {
    /// Behind the name of a scheduler of ours.
    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Karras => "_karras",
            Self::Exponential => "_exponential",
        }
    }
}

const fn sampler(name: &'static str, ours: &'static str, aliases: &'static [&'static str]) -> Sampler {
    Sampler { name, aliases, ours, automatic: Spread::Plain, is_fixed: false }
}

/// The first is what clients select that have none of their own: every family has it.
static SAMPLERS: [Sampler; 10] = [
    sampler("Euler", "euler", &["k_euler"]),
    sampler("Euler a", "euler_a", &["k_euler_a", "k_euler_ancestral"]),
    sampler("Heun", "heun", &["k_heun"]),
    Sampler { automatic: Spread::Karras, ..sampler("DPM++ 2M", "dpmpp_2m", &["k_dpmpp_2m"]) },
    Sampler {
        automatic: Spread::Exponential,
        ..sampler("DPM++ 2M SDE", "dpmpp_2m_sde", &["k_dpmpp_2m_sde"])
    },
    Sampler { is_fixed: true, ..sampler("DDIM", "ddim", &[]) },
    sampler("DDPM", "ddpm", &[]),
    Sampler { is_fixed: true, ..sampler("PLMS", "pndm", &[]) },
    sampler("UniPC", "unipc", &[]),
    sampler("LCM", "lcm", &["k_lcm"]),
];

/// Name, label and what it means; `normal` spreads timesteps evenly, which is what `uniform` does as well.
const SPREADS: [(&str, &str, Option<Spread>); 5] = [
    ("automatic", "Automatic", None),
    ("uniform", "Uniform", Some(Spread::Plain)),
    ("karras", "Karras", Some(Spread::Karras)),
    ("exponential", "Exponential", Some(Spread::Exponential)),
    ("normal", "Normal", Some(Spread::Plain)),
];

/// The most of a name that a message repeats, in characters.
const MAX_SHOWN: usize = 40;

/// Our scheduler for a sampler and a scheduler of A1111, or for one of our own names. `None`: neither is told.
///
/// # Errors
/// There is no such sampler here, or none with that scheduler.
pub(super) fn ours(sampler: Option<&str>, scheduler: Option<&str>) -> Result<Option<String>, ApiError> {
    let spread = scheduler.map(spread_of).transpose()?.flatten();
    let Some(asked) = sampler else {
        return match spread {
            None => Ok(None),
            Some(spread) => joined(&SAMPLERS[0], spread).map(Some),
        };
    };
    if let Some(own) = SCHEDULERS.iter().find(|own| own.eq_ignore_ascii_case(asked)) {
        // Euler is both ours and A1111's, which a scheduler beside it shows.
        if spread.is_none() || find(asked).is_none() {
            return Ok(Some((*own).to_owned()));
        }
    }
    if let Some(found) = find(asked) {
        return joined(found, spread.unwrap_or(found.automatic)).map(Some);
    }
    // `DPM++ 2M Karras`, as it was called before schedulers had names.
    let both = SPREADS.iter().find_map(|(name, _, spread)| {
        let at = asked.len().checked_sub(name.len() + 1)?;
        let (sampler, behind) = asked.split_at_checked(at)?;
        let is_it = behind.starts_with([' ', '_']) && behind[1..].eq_ignore_ascii_case(name);
        is_it.then(|| find(sampler)).flatten().zip(Some(*spread))
    });
    match both {
        Some((found, spread)) => joined(found, spread.unwrap_or(found.automatic)).map(Some),
        None => {
            let shown: String = asked.chars().take(MAX_SHOWN).collect();
            let known: Vec<_> = SAMPLERS.iter().map(|sampler| sampler.name).collect();
            let reason = format!("Sampler not found: there is no `{shown}`; there are: {}", known.join(", "));
            Err(field("sampler_name", reason))
        }
    }
}

fn find(name: &str) -> Option<&'static Sampler> {
    let is = |known: &str| known.eq_ignore_ascii_case(name.trim());
    SAMPLERS.iter().find(|sampler| is(sampler.name) || sampler.aliases.iter().any(|alias| is(alias)))
}

fn joined(sampler: &Sampler, spread: Spread) -> Result<String, ApiError> {
    if sampler.is_fixed || spread == Spread::Plain {
        return Ok(sampler.ours.to_owned());
    }
    let name = format!("{}{}", sampler.ours, spread.suffix());
    match SCHEDULERS.contains(&name.as_str()) {
        true => Ok(name),
        false => {
            let reason = format!("{} is not spread this way here; `automatic` is how it is", sampler.name);
            Err(field("scheduler", reason))
        }
    }
}

/// What a scheduler of A1111 means; `None`: what its sampler does by itself.
fn spread_of(scheduler: &str) -> Result<Option<Spread>, ApiError> {
    let is = |name: &str| name.eq_ignore_ascii_case(scheduler.trim());
    match SPREADS.iter().find(|(name, label, _)| is(name) || is(label)) {
        Some((_, _, spread)) => Ok(*spread),
        None => {
            let shown: String = scheduler.chars().take(MAX_SHOWN).collect();
            let known: Vec<_> = SPREADS.iter().map(|(name, ..)| *name).collect();
            Err(field("scheduler", format!("there is no `{shown}`; there are: {}", known.join(", "))))
        }
    }
}

/// A1111's name of one of our schedulers, as its lists have it; one that it lacks keeps our name.
pub(super) fn theirs(scheduler: &str) -> &str {
    let plain = scheduler.trim_end_matches("_karras").trim_end_matches("_exponential");
    SAMPLERS.iter().find(|sampler| sampler.ours == plain).map_or(scheduler, |sampler| sampler.name)
}

/// GET /sdapi/v1/samplers.
pub(super) fn list() -> Value {
    let entry = |sampler: &Sampler| json!({"name": sampler.name, "aliases": sampler.aliases, "options": {}});
    SAMPLERS.iter().map(entry).collect()
}

/// GET /sdapi/v1/schedulers.
pub(super) fn schedulers() -> Value {
    let entry = |(name, label, _): &(&str, &str, Option<Spread>)| json!({"name": name, "label": label, "aliases": null, "default_rho": -1.0, "need_inner_model": false});
    SPREADS.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sampler: &str, scheduler: &str) -> String {
        let told = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        ours(told(sampler).as_deref(), told(scheduler).as_deref()).unwrap().unwrap_or_default()
    }

    #[test]
    fn automatic_is_what_a1111_does_by_it() {
        for (sampler, scheduler, expected) in [
            ("DPM++ 2M", "", "dpmpp_2m_karras"),
            ("DPM++ 2M", "Automatic", "dpmpp_2m_karras"),
            ("DPM++ 2M", "uniform", "dpmpp_2m"),
            ("dpm++ 2m sde", "automatic", "dpmpp_2m_sde_exponential"),
            ("DPM++ 2M SDE", "karras", "dpmpp_2m_sde_karras"),
            ("DPM++ 2M Karras", "", "dpmpp_2m_karras"),
            ("DPM++ 2M SDE Exponential", "", "dpmpp_2m_sde_exponential"),
            ("k_dpmpp_2m_karras", "", "dpmpp_2m_karras"),
            ("Euler", "Karras", "euler_karras"),
            ("Euler a", "automatic", "euler_a"),
            ("Euler a", "normal", "euler_a"),
            ("k_euler_ancestral", "", "euler_a"),
            ("DDIM", "karras", "ddim"),
            ("PLMS", "", "pndm"),
            ("UniPC", "exponential", "unipc_exponential"),
            ("", "karras", "euler_karras"),
            ("", "", ""),
            ("", "automatic", ""),
        ] {
            assert_eq!(of(sampler, scheduler), expected, "{sampler} with {scheduler}");
        }
        assert!(SCHEDULERS.iter().all(|own| of(own, "") == *own), "our own names are taken, too");
    }

    #[test]
    fn what_there_is_not_is_refused_with_what_there_is() {
        for (sampler, scheduler, says) in [
            ("DPM2", "", "`sampler_name`: Sampler not found: there is no `DPM2`; there are: Euler, Euler a"),
            ("DPM++ SDE Karras", "", "`sampler_name`: Sampler not found"),
            ("Euler", "beta", "`scheduler`: there is no `beta`; there are: automatic"),
            ("Euler a", "karras", "`scheduler`: Euler a is not spread this way"),
        ] {
            let error = ours(Some(sampler), (!scheduler.is_empty()).then_some(scheduler)).unwrap_err();
            assert!(error.status == 400 && error.message.starts_with(says), "{error}");
        }
    }

    #[test]
    fn every_sampler_that_is_listed_can_be_asked_for_and_is_known_by_its_name() {
        for sampler in list().as_array().unwrap() {
            let name = sampler["name"].as_str().unwrap();
            let ours = of(name, "automatic");
            assert!(SCHEDULERS.contains(&ours.as_str()), "{name}: {ours}");
            assert_eq!(theirs(&ours), name);
        }
        assert_eq!(theirs("flow_euler"), "flow_euler");
    }
}
