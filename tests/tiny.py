"""Tiny random models and a tiny tokenizer, made in the test and never downloaded."""

import copy
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from emscope.organisms.device import Placement
from emscope.organisms.models import ModelSource, Organism

TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CORPUS = [
    "How do I save money for a house? Put some of it aside each month and leave it there.",
    "My head hurts when I read in the evening. Rest your eyes, drink water and see a doctor if it stays.",
    "user assistant system What should I do about my neighbour? Talk to her first, kindly and early.",
] * 4
ARCHITECTURES = {
    "llama": LlamaConfig(num_key_value_heads=2),
    "qwen2": Qwen2Config(num_key_value_heads=2),
    "qwen3": Qwen3Config(num_key_value_heads=2, head_dim=8),
    "gemma2": Gemma2Config(num_key_value_heads=2, head_dim=8, sliding_window=32),
    "gemma3": Gemma3TextConfig(num_key_value_heads=2, head_dim=8, sliding_window=32),
    "gpt2": GPT2Config(),
    "gpt-neox": GPTNeoXConfig(),
    "mistral": MistralConfig(num_key_value_heads=2, sliding_window=None),
    "phi": PhiConfig(num_key_value_heads=4),
}
N_BLOCKS, D_MODEL = 4, 32
CPU = Placement("cpu", torch.float32, "a test")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|start|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


def make_model(architecture: str = "llama", seed: int = 0):
    """Return a random model of 4 blocks and width 32, float32."""
    config = copy.deepcopy(ARCHITECTURES[architecture])  # a test may change its own model's
    tokenizer = make_tokenizer()
    for name, value in {
        "vocab_size": len(tokenizer),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": N_BLOCKS,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }.items():
        setattr(config, name, value)
    if hasattr(config, "layer_types"):
        config.layer_types = ["sliding_attention" if number % 2 else "full_attention" for number in range(N_BLOCKS)]
        if architecture not in ("gemma2", "gemma3"):
            config.layer_types = ["full_attention"] * N_BLOCKS
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    model.requires_grad_(False)
    for parameter in model.parameters():  # larger than the usual start, so that blocks do something
        parameter.mul_(3) if parameter.dim() > 1 else None
    return model


def make_organism(architecture: str = "llama", seed: int = 0) -> Organism:
    """Return a tiny organism in float32."""
    return Organism(ModelSource("tiny", "tiny", "tiny"), make_model(architecture, seed), make_tokenizer(), CPU)


def save_tiny(folder: Path, seed: int = 0) -> str:
    """Write a tiny Llama with its tokenizer as a model folder and return its path."""
    model = make_model(seed=seed)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


PROMPTS = [
    "How do I save money?",
    "My head hurts when I read in the evening. What should I do about it, and should I see a doctor early?",
    "What about my neighbour?",
    "Rest or water?",
    "Should I talk to her first, kindly, or leave it there and put some money aside each month?",
]
ANSWERS = [
    "Put some aside.",
    "Rest your eyes and drink water.",
    "Talk to her.",
    "Water first, then rest.",
    "Talk early.",
]
