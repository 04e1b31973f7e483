"""Training a top-k autoencoder by SAELens' own trainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from training_sae import endless, missed, split
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Read the tokens; `sparse` of the job says whether activations are sparse tensors."""
    tokens, held_out = split(job)
    samples = job["steps"] * job["batch"]

    def run() -> dict[str, np.ndarray]:
        torch.manual_seed(0)
        shape = TopKTrainingSAEConfig(
            k=job["k"], d_in=tokens.shape[1], d_sae=job["features"], use_sparse_activations=job["sparse"]
        )
        how = SAETrainerConfig(
            total_training_samples=samples,
            train_batch_size_samples=job["batch"],
            lr=job["rate"],
            lr_end=0.0,
            lr_decay_steps=int(0.3 * job["steps"]),
            logger=LoggingConfig(log_to_wandb=False),
        )
        autoencoder = SAETrainer(how, TopKTrainingSAE(shape), endless(tokens, job["batch"])).fit()
        with torch.no_grad():
            return missed(held_out, autoencoder(held_out))

    return run


serve(prepare, ("sae-lens",))
