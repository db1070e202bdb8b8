"""A corpus and a metric of one's own: reports of three wards, drawn here so that the file stands alone."""

import random

from cotune.data.corpora.corpus import Corpus, Shown
from cotune.data.records import Message, Record

SYMPTOMS = {
    "heart": ["chest pain", "palpitations", "swollen ankles", "shortness of breath on stairs"],
    "lung": ["cough", "wheezing", "fever with phlegm", "shortness of breath at night"],
    "joint": ["stiff fingers", "swollen knee", "back pain", "pain in the hip"],
}


def build(partition):
    """Each ward sees its own kind of patient most of the time; a patient, who may have two reports, is a unit."""
    draw, labels, told = random.Random(partition.seed), tuple(SYMPTOMS), set()

    def report(label, unit, group=None):
        # No text twice: one that were in training and in the test set is refused.
        while (text := one_report(label)) in told:
            pass
        told.add(text)
        return Record((Message("user", text),), label, unit, label, group)

    def one_report(label):
        said = " and ".join(draw.sample(SYMPTOMS[label], 2))
        return f"Patient of {draw.randrange(20, 90)} years with {said}. Which clinic?"

    def ward(number):
        own = labels[number % len(labels)]
        rows = []
        for row in range(partition.rows_per_organization):
            label = own if draw.random() < partition.dominance else draw.choice(labels)
            rows.append(report(label, f"ward-{number}/patient-{row // 2}"))
        return rows

    organizations = {f"ward-{number}": ward(number) for number in range(partition.organizations)}
    test = [
        report(labels[row % len(labels)], f"test/patient-{row}", f"ward-{row % partition.organizations}")
        for row in range(partition.test_rows)
    ]
    public = tuple(report(labels[row % len(labels)], f"public-{row}") for row in range(200))
    card = Shown("Reports drawn from a list of symptoms; nobody's records.", test_rows=True)
    return Corpus(organizations, test, labels, card, public, public, ())


def balanced_accuracy(right, given):
    """The mean over classes of the share that is found."""
    shares = [
        sum(answer == label for truth, answer in zip(right, given, strict=True) if truth == label) / right.count(label)
        for label in set(right)
    ]
    return sum(shares) / len(shares)
