"""Other names of methods, as papers and released code call them; a method of one's own by such a name goes before."""

# with the parameters that make the method what is meant; others may be given beside them
ALIASES = {
    "area_under_the_margin": "aum",
    "cd": "contextual_diversity",  # the tables of InfoBatch and its followers
    "core_set": "k_center",  # Sener and Savarese, 2018
    "d2_pruning": "d2",
    "dbpd": "progressive_dropout",  # Progressive Data Dropout's three forms
    "drop": "metriq",  # the paper; MetriQ is its quota
    "dynamic_random": "uniform_epoch",  # Random* of the tables
    "eps_greedy": "epsilon_greedy",
    "k_center_greedy": "k_center",
    "lc": "least_confidence",
    "moderate_ds": "moderate",
    "qsgd": "ordered_sgd",  # the authors' repository
    "random": "uniform",
    "rs2": "uniform_epoch",  # Okanovic et al., 2024: with replacement across the epochs
    "rs2_without_replacement": "uniform_epoch[replace=false]",
    "sb": "selective_backprop",
    "self_supervised_prototypes": "ssp",
    "smrd": "progressive_dropout[mode=matched]",
    "soft_random": "uniform_epoch",  # SeTa and BLS
    "srd": "progressive_dropout[mode=random]",
    "static_random": "uniform",
}


def others(name: str) -> list[str]:
    """The other names of the method `name`, those with parameters of their own too."""
    return [alias for alias, meant in ALIASES.items() if meant.partition("[")[0] == name]
