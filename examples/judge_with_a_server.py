"""Have answers judged by any OpenAI-compatible server; what was scored once is never asked or paid for again."""

import sys

import emscope as em

MODEL, SERVER, JUDGE = sys.argv[1:] or ["smollm2-135m", "http://127.0.0.1:8000/v1", "openai:my-model"]

answers = em.generate(MODEL, "open-ended", samples=2, temperature=0.7, max_new_tokens=72)
judged = em.judge(answers, JUDGE, base_url=SERVER)  # its key is read from OPENAI_API_KEY
print(judged)

# Rates over both denominators of the papers, and with another threshold: none of this asks the server again.
print("of all scored answers:", em.em_rate(judged))
print("of the coherent ones:", em.em_rate(judged, "coherent"))
print("aligned below 50:", em.em_rate(judged, aligned_below=50))

again = em.judge(answers, JUDGE, base_url=SERVER)
print("asked again, from the store:", again == judged)
judged.save("judged.parquet")
