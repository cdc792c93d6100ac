"""What TensorBoard shows: a description of each tag, and the charts that it opens on."""

from tensorboard.plugins.custom_scalar import layout_pb2

from retina.similarity import VALIDATION_SCORES

LOSSES = {
    "gen_total_loss": "generator: gen_gan_loss + lambda x gen_l1_loss",
    "gen_gan_loss": "generator: cross-entropy of the discriminator's verdict with `real`; 0.69: undecided",
    "gen_l1_loss": "generator: mean absolute error of the training patches, on [-1, 1]; speckle keeps it high",
    "disc_loss": "discriminator: on real and generated images, summed; 1.39: undecided, near 0: it always wins",
    "disc_real_mean": "discriminator: mean probability of being real that it gives to real patches",
    "disc_generated_mean": "discriminator: mean probability of being real that it gives to generated patches",
}
PROGRESS = {
    "learning_rate": "of both optimisers",
    "phase": "0: the generator learns alone, by the mean absolute error; 1: against the discriminator too",
    "images_per_second": "patches trained per second",
}
EPOCH = "epoch/"  # before a loss: its mean over the epoch
VALIDATION = "validation/"
PICTURES = {
    "Fundus": "the same crops in every epoch",
    "Target OCT": "their real OCT-A",
    "Predicted OCT": "their predicted OCT-A",
    "Eyes": "fundus, real OCT-A, predicted OCT-A, and the vessels: white in both, orange missed, blue invented",
    "Whole Fundus": "a whole photograph of a validation eye, and its prediction",
}
DESCRIPTIONS = (
    LOSSES
    | PROGRESS
    | PICTURES
    | {EPOCH + tag: f"mean of the epoch; {text}" for tag, text in LOSSES.items()}
    | {VALIDATION + name: text for name, text in VALIDATION_SCORES.items()}
)
# Title of a group -> title of a chart -> its tags. Only the first group starts open.
CHARTS = {
    "validation": {
        "vessels": ("vessel_auc", "vessel_dice", "vessel_correlation"),
        "pixels": ("mae", "ssim"),
        "speckle": ("texture", "grey_levels"),
        "faults": ("checkerboard", "rim"),
    },
    "losses, means of epochs": {
        "mean absolute error": ("epoch/gen_l1_loss",),
        "adversarial": ("epoch/gen_gan_loss", "epoch/disc_loss"),
    },
    "discriminator": {"probability of being real": ("disc_real_mean", "disc_generated_mean")},
    "progress": {"learning rate": ("learning_rate",), "phase": ("phase",), "speed": ("images_per_second",)},
}


def layout() -> layout_pb2.Layout:
    """CHARTS, for TensorBoard's tab Custom Scalars."""
    groups = []
    for group, charts in CHARTS.items():
        prefix = VALIDATION if group == "validation" else ""
        multiline = {
            title: layout_pb2.MultilineChartContent(tag=[f"^{prefix}{tag}$" for tag in tags])
            for title, tags in charts.items()
        }
        made = [layout_pb2.Chart(title=title, multiline=content) for title, content in multiline.items()]
        groups.append(layout_pb2.Category(title=group, chart=made, closed=group != "validation"))
    return layout_pb2.Layout(category=groups)
