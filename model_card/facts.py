"""What a card says of the data set behind a checkpoint, one entry a data set.

Only what holds for the data set itself: numbers of a copy come from the results and the leak audit.
"""

from dataclasses import dataclass, field

from emosynthnet_hf.data import CIFAR10, EXPRESSIONS, FOLDS

DIGITS = tuple("0123456789")
UNKNOWN = {"license": "unknown"}
NOT_KNOWN_HERE = "Its licence is not known here: look it up before you publish these weights."


@dataclass(frozen=True)
class Claim:
    """What the thesis states of its network on a data set.

    Attributes:
        accuracy: a share.
        pictures: which ones it was measured on.
        epochs: of the training.
    """

    accuracy: float
    pictures: str
    epochs: int = 100


@dataclass(frozen=True)
class DataFacts:
    """A data set, for a card.

    Attributes:
        title: as its authors write it.
        hub_id: of the data set on the Hub; None where it is not there.
        label_names: its classes; a data set of its name with others is another.
        license: of the weights, as front matter.
        licence: the same in sentences, with the source of the pictures.
        labels: a sentence on where the labels come from, if that limits what can be learnt.
        splits: what the data set calls the splits, where it calls them otherwise.
        audited_copy: what is to be said of the copy that docs/audits describes.
        claim: the thesis's.
    """

    title: str
    hub_id: str | None
    label_names: tuple[str, ...]
    license: dict[str, str]
    licence: str
    labels: str = ""
    splits: dict[str, str] = field(default_factory=dict)
    audited_copy: str = ""
    claim: Claim | None = None

    @property
    def shows_faces(self) -> bool:
        """Whether the classes are expressions, all or some of them."""
        return set(self.label_names) <= set(EXPRESSIONS)


# By folder name or the last part of a Hub id, in lower case without hyphens. The thesis's
# accuracies are in its tables 3.4 (SVHN), 4.1 (MNIST, CIFAR-10), 5.2 (RAF-DB) and 5.3 (CK+).
FACTS = {
    "fer2013": DataFacts(
        title="FER-2013",
        hub_id="AutumnQiu/fer2013",
        label_names=EXPRESSIONS,
        license={"license": "other", "license_name": "fer2013-research-use"},
        licence="FER-2013 (Goodfellow et al., 2013; ICML 2013 challenge), for research use; so are "
        "these weights.",
        # Pages 3 and 4 of the report, as quoted on recognitionmachine.vandal.ist/p/fer2013.
        labels="The labels of FER-2013 come from the words that its pictures were found with on "
        "the web, and from people who threw out those that did not fit (Goodfellow et al., 2013, "
        "arXiv:1307.0414).",
        splits={"train": "Training", "validation": "PublicTest", "test": "PrivateTest"},
        audited_copy="Of the original 35,887 pictures, it lacks the 177 that FER+ marks as no "
        "face. The Hub's [AutumnQiu/fer2013](https://huggingface.co/datasets/AutumnQiu/fer2013) "
        "has the same three splits with those pictures, so scores on it differ a little, and "
        "`verify.py` cannot find these numbers again with it. The labels of this copy were joined "
        "to its pixels, so identical pictures cannot show two labels in it.",
        claim=Claim(0.9379, "PublicTest and PrivateTest together, 7,178"),
    ),
    "cifar10": DataFacts(
        title="CIFAR-10",
        hub_id="uoft-cs/cifar10",
        label_names=CIFAR10,
        license=UNKNOWN,
        licence=f"CIFAR-10 (Krizhevsky, 2009). {NOT_KNOWN_HERE}",
        audited_copy="Its pictures were saved as JPEG, so scores can be a little below those on "
        "the original pixels.",
        claim=Claim(0.9363, "test, 10,000"),
    ),
    "mnist": DataFacts(
        title="MNIST",
        hub_id="ylecun/mnist",
        label_names=DIGITS,
        license=UNKNOWN,
        licence=f"MNIST (LeCun et al., 1998). {NOT_KNOWN_HERE}",
        claim=Claim(0.9966, "test, 10,000"),
    ),
    "svhn": DataFacts(
        title="SVHN",
        hub_id="ufldl-stanford/svhn",
        label_names=DIGITS,
        license=UNKNOWN,
        licence=f"SVHN (Netzer et al., 2011). {NOT_KNOWN_HERE}",
        claim=Claim(0.9575, "test, 26,032", epochs=50),
    ),
    "rafdb": DataFacts(
        title="RAF-DB",
        hub_id=None,
        label_names=EXPRESSIONS,
        license={"license": "other", "license_name": "raf-db-on-request"},
        licence="RAF-DB (Li et al., 2017) is given out on request (www.whdeng.cn/RAF/model1.html); "
        "its terms hold for these weights.",
        claim=Claim(0.9194, "test, 3,068"),
    ),
    "ckplus": DataFacts(
        title="CK+",
        hub_id=None,
        label_names=EXPRESSIONS,
        license={"license": "other", "license_name": "ck-plus-on-request"},
        licence="CK+ (Lucey et al., 2010) is given out on request; its terms hold for these "
        "weights.",
        claim=Claim(1.0, f"all {FOLDS} folds"),
    ),
}


def data_facts(dataset: str, label_names: tuple[str, ...]) -> DataFacts:
    """What is known of a data set, by the name and the labels that results give.

    A name that is not known, or known with other labels, is somebody's own data.
    """
    name = dataset.split("/")[-1]
    known = FACTS.get(name.lower().replace("-", "").replace("_", ""))
    if known is not None and known.label_names == label_names:
        return known
    return DataFacts(
        title=name,
        hub_id=dataset if "/" in dataset else None,
        label_names=label_names,
        license=UNKNOWN,
        licence=f"The pictures are those of `{dataset}`. **Their licence is unknown to the builder "
        f"of this card: fill it in here and in the front matter before you publish these "
        f"weights.**",
    )


__all__ = ["Claim", "DataFacts", "data_facts"]
