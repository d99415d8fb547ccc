"""The statistical model: parameters, rates, shapes, the likelihood and its derivatives, Asimov data and toys."""
