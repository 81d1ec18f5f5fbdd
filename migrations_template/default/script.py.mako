"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""
<%
    body = config.attributes.get("embedmigrate_body")
    literal = lambda value: repr(value).replace("'", '"')
%>\
% if body:

from embedmigrate import ${body.imports}
% endif

revision = ${literal(up_revision)}
down_revision = ${literal(down_revision)}
branch_labels = ${literal(branch_labels)}
depends_on = ${literal(depends_on)}
% if body:

${body.constants}
% endif


def upgrade() -> None:
% if body:
${body.upgrade}
% else:
    ${upgrades if upgrades else "pass"}
% endif


def downgrade() -> None:
% if body:
${body.downgrade}
% else:
    ${downgrades if downgrades else "pass"}
% endif
