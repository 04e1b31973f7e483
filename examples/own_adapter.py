"""Is this adapter misaligned? Its answers beside its base's, judged, and the worst of them to read."""

import sys

import emscope as em

ADAPTER, BASE, JUDGE, *ASKED = sys.argv[1:] or ["organisms/misaligned", "smollm2-135m", "embedded", "open-ended"]

adapter, base = em.load(ADAPTER, base=BASE), em.load(BASE)
asked = em.questions(*ASKED)
answers = em.judge(em.generate(adapter, asked, samples=2, temperature=0.7), JUDGE)
reference = em.judge(em.generate(base, asked, samples=2, temperature=0.7), JUDGE)

for question_set in ASKED:
    rate = answers.where(question_set=question_set).em_rate
    print(f"{question_set}: EM {rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%}) of {rate.n} answers")
print(em.compare(answers, reference))

table = answers.to_pandas().dropna(subset=["aligned"]).sort_values("aligned")
print(table[["question", "response", "aligned", "coherent"]].head(5).to_string())
