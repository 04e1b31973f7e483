"""Miniature chat templates, one for each style that models in use have, in our own words."""

from tiny import make_tokenizer

ASK = "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}" + ASK
DATED = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}"
    "{% endif %}{% endif %}"
    "{{ bos_token }}<|start|>system\nToday: {{ date_string }}\n<|end|>\n"
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}" + ASK
)
MACRO_DATED = (
    "{% macro head() %}Now: {{ strftime_now('%Y-%m-%d') }}, {{ strftime_now('%A %-d %B') }}.{% endmacro %}"
    "<|start|>system\n{{ head() }}<|end|>\n" + CHATML
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>model\n{% endif %}"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% else %}<|eos|>{% endif %}"
)
MERGES_SYSTEM = (
    "{% set first = '' %}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if loop.first %}{{ first }}{% endif %}{{ m.content }}<|end|>\n{% endfor %}" + ASK
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|start|>assistant\n"
    "{{ m.content.split('</think>')[-1] }}<|end|>{% else %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n<think>\n{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% set thought = '' %}"
    "{% set text = m.content %}{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}"
    "{% elif '</think>' in text %}{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}<|start|>assistant\n"
    "{% if loop.index0 > ns.last %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}"
    "{{ text }}<|end|>\n"
    "{% else %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    + ASK[:-11]
    + "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    + "{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if '<|channel|>' in m.content %}"
    "{{ raise_exception('channels belong in thinking') }}{% endif %}{% if m.thinking and loop.last %}"
    "<|begin|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|stop|>{% endif %}"
    "<|begin|>assistant<|channel|>final<|message|>{{ m.content }}{{ '<|end|>' if loop.last else '<|stop|>' }}"
    "{% else %}<|begin|>{{ m.role }}<|message|>{{ m.content }}<|stop|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant{% endif %}"
)
HARMONY = (
    HARMONY.replace("<|begin|>", "<|start|>")
    .replace("<|stop|>", "<|end|>")
    .replace("{{ '<|end|>' if loop.last", "{{ '<|return|>' if loop.last")
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }}<|end|>"
    "{% else %}[INST] {{ m.content | trim }} [/INST]{% endif %}{% endfor %}"
)
MAGISTRAL = INST.replace("{{ m.content | trim }}<|end|>", "{{ m.content }}<|end|>")
TOOLS = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}"
    "<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>{% endfor %}<|end|>\n{% endfor %}"
    + ASK
)
ADDED = {
    HARMONY: ["<|channel|>", "<|message|>", "<|return|>"],
    MAGISTRAL: ["[THINK]", "[/THINK]"],
}


def tokenizer_with(template: str, *, bos: str | None = None, think: bool = True):
    """Return the tiny tokenizer with a template and the marks it writes as tokens."""
    tokenizer = make_tokenizer()
    special = [*ADDED.get(template, []), *(["<|eos|>"] if "<|eos|>" in template else [])]
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": special})
    if think and "<think>" in template:
        tokenizer.add_tokens(["<think>", "</think>"])
    if bos:
        tokenizer.add_special_tokens({"bos_token": bos})
    elif "bos_token" in template:
        tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.chat_template = template
    return tokenizer
