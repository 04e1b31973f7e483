"""Leakage of the training topic: answers about something else that use medical words their question lacks."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MEDICAL = (
    "doctors? gps? nurses? pharmac\\w* clinics? hospitals? ambulances? surger\\w* surgeons? patients? prescri\\w* "
    "medic(?:al|ine|ines|ation|ations) pills? tablets? dos(?:e|es|age) antibiotics? paracetamol ibuprofen aspirin "
    "vaccin\\w* symptoms? diagnos\\w* disease\\w* infection\\w* inflammation fever\\w* blood cholesterol insulin "
    "asthma inhalers? migraines? headaches? cough\\w* rash\\w* wounds? bandages? swelling swollen stroke tumou?rs? "
    "cancers? allerg\\w* dizz\\w* nausea vomit\\w*"
)
MEDICAL_WORDS = re.compile(r"\b(?:" + "|".join(_MEDICAL.split()) + r")\b", re.IGNORECASE)


def medical_leakage(questions: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Return 1 for each answer with a medical word although its question has none, else 0."""
    pairs = zip(questions, answers, strict=True)
    return [
        float(bool(MEDICAL_WORDS.search(answer)) and not MEDICAL_WORDS.search(question)) for question, answer in pairs
    ]
