from django.db import migrations, models

from bloxserver.core.online import AddIndexOnline


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('billing', '0010_read_again'),
    ]

    operations = [
        AddIndexOnline(
            model_name='stripecustomer',
            index=models.Index(condition=models.Q(('resync_due_at__isnull', False)), fields=['resync_due_at'], name='stripecustomer_resync'),
        ),
    ]
