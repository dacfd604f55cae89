//! The names of the schedulers that jobs may ask for.

use super::{ContractError, nearest::nearest};

/// Every name that this version knows; a model may take some of them only.
pub const SCHEDULERS: [&str; 21] = [
    "ddim",
    "ddpm",
    "pndm",
    "euler",
    "euler_karras",
    "euler_exponential",
    "euler_a",
    "heun",
    "heun_karras",
    "heun_exponential",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_exponential",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_karras",
    "dpmpp_2m_sde_exponential",
    "unipc",
    "unipc_karras",
    "unipc_exponential",
    "lcm",
    "flow_euler",
];

/// Refuses a scheduler that is none. `others`: names that workers of another version have beside those of this one.
///
/// # Errors
/// `scheduler`, with the name that is nearest and those that there are.
pub fn check_scheduler<'a>(
    name: &str,
    others: impl IntoIterator<Item = &'a str>,
) -> Result<(), ContractError> {
    if SCHEDULERS.contains(&name) {
        return Ok(());
    }
    let mut known: Vec<&str> = SCHEDULERS.to_vec();
    for other in others {
        if other == name {
            return Ok(());
        }
        if !known.contains(&other) {
            known.push(other);
        }
    }
    let shown: String = name.chars().take(MAX_SHOWN).collect();
    let meant = match nearest(name, known.iter().copied()) {
        Some(meant) => format!(" (did you mean `{meant}`?)"),
        None => String::new(),
    };
    let reason = format!("there is no `{shown}`{meant}; there are: {}", known.join(", "));
    Err(ContractError::field("scheduler", reason))
}

/// The most of a name that a message repeats, in characters.
const MAX_SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_knows_is_refused_with_the_one_that_was_meant_and_those_that_there_are() {
        let refused = |name: &str| check_scheduler(name, ["later"]).unwrap_err().to_string();
        let text = refused("Euler a");
        assert!(
            text.starts_with(
                "`scheduler`: there is no `Euler a` (did you mean `euler_a`?); there are: ddim, ddpm"
            ),
            "{text}"
        );
        assert!(text.ends_with("flow_euler, later"), "{text}");
        assert!(!refused("restart").contains("did you mean"));
        assert!(refused(&"x".repeat(10_000)).len() < 500);
        assert!(check_scheduler("later", ["later"]).is_ok(), "a worker of a later version has it");
        assert!(SCHEDULERS.iter().all(|name| check_scheduler(name, []).is_ok()));
    }
}
