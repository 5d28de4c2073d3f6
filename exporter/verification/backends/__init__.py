"""Every way to run a model, and to run one of its operators' nodes alone."""
