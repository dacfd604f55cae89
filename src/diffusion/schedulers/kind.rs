//! The schedulers there are, by the contract's names and by diffusers' classes and switches.

use crate::diffusion::{DiffusionError, checkpoint::ConfigFile};

/// How the sigmas of a schedule lie between the largest and the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigmaSpread {
    /// Those of the timesteps.
    Plain,
    /// Equal parts of the seventh root (Karras et al. 2022).
    Karras,
    /// Equal parts of the logarithm.
    Exponential,
}

/// The schedulers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerKind {
    /// Denoising diffusion implicit models, eta 0 (Song et al. 2020).
    Ddim,
    /// Denoising diffusion probabilistic models (Ho et al. 2020).
    Ddpm,
    /// Pseudo numerical methods (Liu et al. 2022).
    Pndm,
    /// Euler's method in the formulation of Karras et al. 2022.
    Euler(SigmaSpread),
    /// Euler's method with new noise at every step (Crowson's k-diffusion).
    EulerAncestral,
    /// Heun's method in the formulation of Karras et al. 2022.
    Heun(SigmaSpread),
    /// DPM-Solver++, multistep (Lu et al. 2022).
    Dpm(SigmaSpread),
    /// DPM-Solver++ for the stochastic equation, multistep.
    DpmSde(SigmaSpread),
    /// Unified predictor and corrector (Zhao et al. 2023).
    UniPc(SigmaSpread),
    /// Latent consistency models (Luo et al. 2023).
    Lcm,
    /// Euler's method on a rectified flow (Liu et al. 2022), of the models that were trained by flow matching.
    FlowEuler,
}

use SchedulerKind::{Ddim, Ddpm, Dpm, DpmSde, Euler, EulerAncestral, Heun, Lcm, Pndm, UniPc};
use SigmaSpread::{Exponential, Karras, Plain};

/// The contract's name of the one method for models that were trained by flow matching, and that of the method itself.
const FLOW: [&str; 2] = ["flow_euler", "euler"];

/// Every kind for models that were trained to take out noise, and the contract's name of it.
const TABLE: [(SchedulerKind, &str); 20] = [
    (Ddim, "ddim"),
    (Ddpm, "ddpm"),
    (Pndm, "pndm"),
    (Euler(Plain), "euler"),
    (Euler(Karras), "euler_karras"),
    (Euler(Exponential), "euler_exponential"),
    (EulerAncestral, "euler_a"),
    (Heun(Plain), "heun"),
    (Heun(Karras), "heun_karras"),
    (Heun(Exponential), "heun_exponential"),
    (Dpm(Plain), "dpmpp_2m"),
    (Dpm(Karras), "dpmpp_2m_karras"),
    (Dpm(Exponential), "dpmpp_2m_exponential"),
    (DpmSde(Plain), "dpmpp_2m_sde"),
    (DpmSde(Karras), "dpmpp_2m_sde_karras"),
    (DpmSde(Exponential), "dpmpp_2m_sde_exponential"),
    (UniPc(Plain), "unipc"),
    (UniPc(Karras), "unipc_karras"),
    (UniPc(Exponential), "unipc_exponential"),
    (Lcm, "lcm"),
];

const NAMES: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = TABLE[i].1;
        i += 1;
    }
    names
};

impl SchedulerKind {
    /// The contract's names of those for models that were trained to take out noise.
    pub const NAMES: &'static [&'static str] = &NAMES;

    /// The contract's name.
    pub fn name(self) -> &'static str {
        if self == Self::FlowEuler {
            return FLOW[0];
        }
        TABLE.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// The scheduler of a request to a model that was trained to take out noise, by the contract's name.
    ///
    /// # Errors
    /// One that there is not, with those that there are.
    pub fn from_name(name: &str) -> Result<Self, DiffusionError> {
        let found = TABLE.iter().find(|(_, known)| *known == name);
        found.map(|(kind, _)| *kind).ok_or_else(|| Self::unknown(name))
    }

    /// The same of a request to a model that was trained by flow matching.
    ///
    /// # Errors
    /// One that there is not, with those that there are.
    pub fn from_name_for_flow(name: &str) -> Result<Self, DiffusionError> {
        if FLOW.contains(&name) {
            return Ok(Self::FlowEuler);
        }
        let reason = format!(
            "there is no `{name}` for a model that was trained by flow matching; there is: {}",
            FLOW.join(" or ")
        );
        Err(DiffusionError::request("scheduler", reason))
    }

    /// The error of a name that is none of [`Self::NAMES`].
    pub(super) fn unknown(name: &str) -> DiffusionError {
        let known = Self::NAMES.join(", ");
        DiffusionError::request("scheduler", format!("there is no `{name}`; there are: {known}"))
    }

    /// The scheduler of a checkpoint, by diffusers' class name and the switches in its configuration; none for a
    /// class that we lack.
    pub(super) fn of_class(class: &str, file: &ConfigFile) -> Result<Option<Self>, DiffusionError> {
        Ok(Some(match class {
            "DDIMScheduler" => Ddim,
            "DDPMScheduler" => Ddpm,
            "PNDMScheduler" => Pndm,
            "EulerDiscreteScheduler" => Euler(spread_of(file)?),
            "EulerAncestralDiscreteScheduler" => EulerAncestral,
            "HeunDiscreteScheduler" => Heun(spread_of(file)?),
            "DPMSolverMultistepScheduler" => {
                // diffusers reads `deis` as `dpmsolver++`.
                match file.name_or("algorithm_type", &["dpmsolver++", "deis", "sde-dpmsolver++"], 0)? {
                    0 | 1 => Dpm(spread_of(file)?),
                    _ => DpmSde(spread_of(file)?),
                }
            }
            "UniPCMultistepScheduler" => UniPc(spread_of(file)?),
            "LCMScheduler" => Lcm,
            _ => return Ok(None),
        }))
    }
}

fn spread_of(file: &ConfigFile) -> Result<SigmaSpread, DiffusionError> {
    let karras = file.flag_or("use_karras_sigmas", false)?;
    let exponential = file.flag_or("use_exponential_sigmas", false)?;
    match (karras, exponential) {
        (false, false) => Ok(Plain),
        (true, false) => Ok(Karras),
        (false, true) => Ok(Exponential),
        (true, true) => {
            let expected = "false, as `use_karras_sigmas` is set";
            Err(file.unusable("use_exponential_sigmas", expected, true))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::SchedulerConfig, *};

    fn own(config: serde_json::Value) -> Result<SchedulerKind, DiffusionError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler_config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        SchedulerConfig::read(ConfigFile::read(&path).unwrap()).unwrap().kind()
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for (kind, name) in TABLE {
            assert_eq!(SchedulerKind::from_name(name).unwrap(), kind);
            assert_eq!(kind.name(), name);
        }
    }

    #[test]
    fn the_contract_s_list_is_of_every_kind() {
        let known = crate::contract::SCHEDULERS;
        assert_eq!(known[..TABLE.len()], NAMES);
        assert_eq!(known[TABLE.len()..], [SchedulerKind::FlowEuler.name()]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_there_are() {
        let text = SchedulerKind::from_name("dpm_fast").unwrap_err().to_string();
        assert!(text.contains("`scheduler`") && text.contains("ddim, ddpm, pndm, euler"), "{text}");
    }

    #[test]
    fn a_checkpoint_s_switches_name_its_own_scheduler() {
        let dpm = "DPMSolverMultistepScheduler";
        let cases = [
            (serde_json::json!({"_class_name": dpm}), "dpmpp_2m"),
            (serde_json::json!({"_class_name": dpm, "use_karras_sigmas": true}), "dpmpp_2m_karras"),
            (
                serde_json::json!({
                    "_class_name": dpm, "algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": true
                }),
                "dpmpp_2m_sde_exponential",
            ),
            (serde_json::json!({"_class_name": "PNDMScheduler", "use_karras_sigmas": true}), "pndm"),
            (serde_json::json!({"_class_name": "UniPCMultistepScheduler"}), "unipc"),
        ];
        for (config, name) in cases {
            assert_eq!(own(config).unwrap().name(), name);
        }
    }

    #[test]
    fn a_checkpoint_s_scheduler_that_is_none_of_ours_is_refused_by_name() {
        let class =
            own(serde_json::json!({"_class_name": "DEISMultistepScheduler"})).unwrap_err().to_string();
        assert!(class.contains("DEISMultistepScheduler") && class.contains("unipc"), "{class}");
        let solver = serde_json::json!({
            "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"
        });
        let solver = own(solver).unwrap_err().to_string();
        assert!(solver.contains("`algorithm_type`") && solver.contains("found dpmsolver"), "{solver}");
    }
}
